"""What an application declares: agents, teams of agents, custom loops."""
