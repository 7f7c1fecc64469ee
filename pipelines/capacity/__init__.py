"""What jobs cost before they are run: FLOPs, hours and bytes, estimated or measured by a dry run."""
