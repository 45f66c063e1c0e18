//! The whole daemon: what starts in which order, and how it ends.
