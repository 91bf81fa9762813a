"""Tools of remote Model Context Protocol servers."""
