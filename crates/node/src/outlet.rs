//! Where output and facts of sandboxes go.
