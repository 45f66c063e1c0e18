//! Templates by name: warmed up from images in the background, versioned, never changed under a running sandbox.

mod names;

use moat_api::rest::image::{Collected, Image, ImageList, PullImage};
use moat_api::rest::template::{Template, TemplateList, Warmup, WarmupStatus};
use moat_image::progress::Progress;
use moat_image::store::Source;
use moat_model::ErrorKind;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// The templates and images of this node. Cheap to clone. They belong to the node, not to a tenant.
#[derive(Debug, Clone)]
pub struct Templates {}

impl Templates {
    /// Takes a warm-up; it goes on in the background. One under way for the same name and image is joined, for another
    /// image is a conflict.
    pub async fn warm_up(&self, request: Warmup) -> Result<WarmupStatus> {
        let _ = request;
        Err(not_yet())
    }

    /// Gives a warm-up up. The version in use stays.
    pub async fn cancel(&self, name: &str) -> Result<WarmupStatus> {
        let _ = name;
        Err(not_yet())
    }

    /// How far it is.
    pub fn status(&self, name: &str) -> Result<WarmupStatus> {
        let _ = name;
        Err(not_yet())
    }

    /// Follows a warm-up: the latest of every change.
    pub fn watch(&self, name: &str) -> Result<watch::Receiver<WarmupStatus>> {
        let _ = name;
        Err(not_yet())
    }

    /// One.
    pub fn get(&self, name: &str) -> Result<Template> {
        let _ = name;
        Err(not_yet())
    }

    /// All, `host` and `scratch` included.
    pub fn list(&self) -> TemplateList {
        TemplateList { templates: Vec::new() }
    }

    /// Removes one; sandboxes made from it live on, its pool is emptied.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let _ = name;
        Err(not_yet())
    }

    /// Fetches an image without making a template of it.
    pub async fn pull(
        &self,
        request: PullImage,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Image> {
        let _ = (request, progress, cancel);
        Err(not_yet())
    }

    /// Imports an image from a file or directory on this node.
    pub async fn import(
        &self,
        source: Source,
        name: Option<String>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Image> {
        let _ = (source, name, progress, cancel);
        Err(not_yet())
    }

    /// All images.
    pub fn images(&self) -> ImageList {
        ImageList { images: Vec::new() }
    }

    /// Removes a reference, or an image by digest.
    pub async fn remove_image(&self, name: &str) -> Result<Collected> {
        let _ = name;
        Err(not_yet())
    }

    /// Removes what nothing needs; with `all` also what only a reference holds.
    pub async fn collect(&self, all: bool) -> Result<Collected> {
        let _ = all;
        Err(not_yet())
    }
}

fn not_yet() -> Error {
    Error::new(ErrorKind::Unsupported, "templates")
}

/// Says why a text cannot name the template of a pool: the rule of [`names::check`], with `host` and `scratch` allowed.
pub(crate) fn check_pool_name(name: &str) -> std::result::Result<(), String> {
    names::check(name)
}
