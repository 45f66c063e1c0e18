//! OCI images, from wherever they come to one read-only root file each.
//!
//! What is here: references and digests, the registry client, other sources (layouts, archives, directories), the content
//! store with its garbage collection, and the writer that makes one erofs file of all layers in one pass.
//! What is not: sandboxes, templates by name (`moat-node`), mounting anything (`moat-drivers`).
//! Start at [`store::ImageStore`].

mod convert;
pub mod digest;
mod disk;
pub mod erofs;
pub mod error;
mod manifest;
mod platform;
pub mod progress;
pub mod reference;
mod registry;
mod source;
pub mod store;

pub use digest::Digest;
pub use error::{Error, Result};
pub use reference::ImageRef;
pub use store::ImageStore;
