"""Room of other people's frameworks and file formats: trainers for Dassl, converters for CoOp and LaFTer files."""
