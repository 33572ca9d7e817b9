"""A lab that stays up: what `harness lab` starts, finds again, asks and ends. The lab itself is `clusters.netns`; words are `cli.lab`."""
