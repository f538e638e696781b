"""The subcommands of sfda-infer, one file each."""
