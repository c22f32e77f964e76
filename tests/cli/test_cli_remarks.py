"""Remarks of the engine: shown by commands that ask for them, as they are; silent otherwise."""

import logging

import pytest

from hybridcascade.cli.terminal import command_output


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"remarks": True}, "from epoch 1: head\nWARNING: careful\n"),
        ({}, "WARNING: careful\n"),
        ({"remarks": True, "quiet": True}, ""),
    ],
)
def test_remarks_are_shown_where_they_are_asked_for(options, shown, capsys):
    log = logging.getLogger("hybridcascade.engine.somewhere")
    with command_output(**options):
        log.info("from epoch %d: head", 1, extra={"remark": True})
        log.info("not for people")
        log.warning("careful")
        logging.getLogger("other").warning("of another library", extra={"remark": True})
    out, err = capsys.readouterr()
    assert (out, err) == ("", shown)
