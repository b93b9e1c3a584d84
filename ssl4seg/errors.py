"""The one exception whose message is meant for the user. It imports nothing, so the command line can use it at once."""


class UserError(Exception):
    """Something that the user can mend: the message names the key, file or case, what was found, and what to do."""
