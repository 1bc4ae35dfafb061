//! Nothing: the bench is what this package is for. See its README.
