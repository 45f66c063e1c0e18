//! Planning as a whole: what happens to instances when something changes.

mod drains;
mod failures;
mod placement;
mod properties;
mod rollouts;
mod system;
