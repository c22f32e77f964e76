"""Our trainers for Dassl: importing this package registers `LaFTer`, `MultiLayerLaFTer`, `HybridCascadeLaFTer`.

>>> from hybridcascade.integrations.dassl import extend_cfg                               # doctest: +SKIP
>>> cfg = get_cfg_default(); extend_cfg(cfg); cfg.merge_from_file("hybrid.yaml")          # doctest: +SKIP
>>> build_trainer(cfg).train()                                                            # doctest: +SKIP

Guide: docs/coming_from.md.
"""

from __future__ import annotations

from hybridcascade.integrations.dassl.registration import import_dassl, register_trainers
from hybridcascade.integrations.keys import extend_cfg

__all__ = ["TRAINERS", "extend_cfg"]

import_dassl()
TRAINERS = register_trainers()
"""Our trainer classes by name, as Dassl's registry has them."""
