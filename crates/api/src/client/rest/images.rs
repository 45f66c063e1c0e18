//! Templates and images.

use reqwest::{Body, Method};

use super::{ByteStream, Lines, RestClient, Result};
use crate::rest::image::{Collected, ImageList, PullEvent, PullImage};
use crate::rest::template::{Template, TemplateList, Warmup, WarmupStatus};

impl RestClient {
    /// Starts a warm-up, which goes on in the background.
    pub async fn warm_up(&self, request: &Warmup) -> Result<WarmupStatus> {
        self.post(&format!("warm up {}", request.name), &["templates", "warmup"], request).await
    }

    /// All templates.
    pub async fn templates(&self) -> Result<TemplateList> {
        self.get("list templates", &["templates"], &[]).await
    }

    /// One.
    pub async fn template(&self, name: &str) -> Result<Template> {
        self.get(&format!("look at template {name}"), &["templates", name], &[]).await
    }

    /// How far its warm-up is.
    pub async fn warmup_status(&self, name: &str) -> Result<WarmupStatus> {
        self.get(&format!("ask how far template {name} is"), &["templates", name, "status"], &[]).await
    }

    /// Gives its warm-up up.
    pub async fn cancel_warmup(&self, name: &str) -> Result<WarmupStatus> {
        let request = self.request(Method::POST, &["templates", name, "cancel"], &[]);
        self.slow(&format!("cancel the warm-up of {name}"), request).await
    }

    /// Removes one; sandboxes made from it live on.
    pub async fn delete_template(&self, name: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &["templates", name], &[]);
        self.done(&format!("remove template {name}"), request).await
    }

    /// Fetches an image. The last line says how it went.
    pub async fn pull(&self, request: &PullImage) -> Result<Lines<PullEvent>> {
        let body = self.request(Method::POST, &["images", "pull"], &[]).json(request);
        self.lines(&format!("pull {}", request.image), body).await
    }

    /// Brings an image as an archive: `oci-archive`, `docker-archive` or `rootfs` in `format`.
    pub async fn import(&self, name: &str, format: &str, archive: ByteStream) -> Result<Lines<PullEvent>> {
        let query = [("name", Some(name.to_owned())), ("format", Some(format.to_owned()))];
        let request = self.request(Method::POST, &["images", "import"], &query);
        self.lines(&format!("import {name}"), request.body(Body::wrap_stream(archive))).await
    }

    /// All images.
    pub async fn images(&self) -> Result<ImageList> {
        self.get("list images", &["images"], &[]).await
    }

    /// Removes a reference, or an image by digest.
    pub async fn delete_image(&self, name: &str) -> Result<Collected> {
        let request = self.request(Method::DELETE, &["images", name], &[]);
        self.slow(&format!("remove image {name}"), request).await
    }

    /// Removes what nothing needs; with `all` also what only a reference holds.
    pub async fn collect_images(&self, all: bool) -> Result<Collected> {
        let request = self.request(Method::POST, &["images", "gc"], &[("all", Some(all.to_string()))]);
        self.slow("remove unused images", request).await
    }
}
