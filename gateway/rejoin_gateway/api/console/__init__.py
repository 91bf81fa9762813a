"""What the console's pages show: the data of many runs at once, for whoever builds a console of their own."""
