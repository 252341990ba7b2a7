"""What a study will cost before it is run: operations, hours, disk, downloads."""
