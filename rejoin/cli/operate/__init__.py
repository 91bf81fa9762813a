"""Commands with which operators look at an installation: lists, the live view, the export of a person;
`migration` also serves `rejoin dev`.
"""
