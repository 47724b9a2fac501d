"""Documents that a run, a bundle and a device leave behind: typed, versioned, read without trust."""
