//! From a name to what a sandbox is made of.

use moat_api::rest::sandbox::ResourceLimits;
use moat_api::rest::template::TemplateDefaults;
use moat_image::progress::Progress;
use moat_image::store::{Image, Pin, Source};
use moat_image::{Digest, ImageRef};
use moat_model::ErrorKind;
use moat_model::spec::{Origin, RootLayer, RootSpec, TemplateRef};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

use super::{BUILT_IN, Templates, defaults, names, no_such};

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its root.
    pub root: RootSpec,
    /// The template.
    pub template: Option<TemplateRef>,
    /// The image's manifest.
    pub image: Option<String>,
    /// What processes get.
    pub defaults: TemplateDefaults,
    /// Limits of sandboxes that name none.
    pub resources: ResourceLimits,
    /// Keeps the layers until the sandbox is recorded.
    pub pins: Vec<Pin>,
}

impl Resolved {
    fn of_image(image: &Image, pin: Pin) -> Self {
        Self {
            root: RootSpec::Layers { layers: vec![layer(&image.root.digest, &image.root.path)] },
            template: None,
            image: Some(image.digest.to_string()),
            defaults: defaults::of_image(&image.config),
            resources: ResourceLimits::default(),
            pins: vec![pin],
        }
    }
}

pub(crate) fn layer(digest: &Digest, path: &std::path::Path) -> RootLayer {
    RootLayer { digest: digest.hex(), path: path.to_owned() }
}

impl Templates {
    /// What a sandbox from this template is made of; `name@3` is its third version.
    pub fn resolve(&self, text: &str) -> Result<Resolved> {
        let (name, wanted) = names::split(text).map_err(|why| Error::invalid("template", why))?;
        if BUILT_IN.contains(&name) {
            if wanted.is_some_and(|v| v != 1) {
                return Err(no_such(text));
            }
            return Ok(Resolved {
                root: if name == "host" { RootSpec::Host } else { RootSpec::Scratch },
                template: Some(TemplateRef { name: name.to_owned(), version: 1 }),
                image: None,
                defaults: TemplateDefaults::default(),
                resources: ResourceLimits::default(),
                pins: Vec::new(),
            });
        }
        let table = self.shared.table();
        let entry = table.get(name).ok_or_else(|| no_such(name))?;
        let version = match wanted {
            None => entry.record.current().ok_or_else(|| not_ready(name, &entry.status.borrow()))?,
            Some(wanted) => entry.record.versions.iter().find(|v| v.number == wanted).ok_or_else(|| no_such(text))?,
        };
        let (image, pin) = entry.images.get(&version.number).ok_or_else(|| not_ready(name, &entry.status.borrow()))?;
        let mut resolved = Resolved::of_image(image, pin.clone());
        resolved.template = Some(TemplateRef { name: name.to_owned(), version: version.number });
        resolved.defaults = defaults::of_template(&image.config, &version.request);
        resolved.resources = version.request.resources.clone();
        Ok(resolved)
    }

    /// What a sandbox straight from this image is made of. One that is in the store is not asked for again.
    pub async fn resolve_image(&self, text: &str) -> Result<Resolved> {
        if let Some((image, pin)) = self.shared.store.find(text) {
            return Ok(Resolved::of_image(&image, pin));
        }
        let reference = reference("image", text)?;
        let source = Source::Registry { reference, auth: None };
        let (progress, _) = watch::channel(Progress::default());
        // Dropped with the request: then the pull ends too.
        let (image, pin) = self.shared.store.pull(source, None, progress, CancellationToken::new()).await?;
        Ok(Resolved::of_image(&image, pin))
    }
}

impl Templates {
    /// What the template a sandbox came from says of processes, or its image if the template has gone.
    pub fn defaults_of(&self, origin: &Origin) -> TemplateDefaults {
        let of_version = origin.template.as_ref().and_then(|t| self.resolve(&format!("{}@{}", t.name, t.version)).ok());
        let of_image = || self.shared.store.find(origin.image.as_deref()?);
        match of_version {
            Some(resolved) if resolved.image == origin.image => resolved.defaults,
            _ => of_image().map(|(image, _)| defaults::of_image(&image.config)).unwrap_or_default(),
        }
    }
}

/// Reads an image reference that a registry can be asked for.
pub(super) fn reference(field: &str, text: &str) -> Result<ImageRef> {
    if text.starts_with("sha256:") {
        return Err(Error::new(ErrorKind::NotFound, format!("{field}: no image {text} in the store of this node")));
    }
    let reference: ImageRef = text.parse().map_err(|e| Error::invalid(field, e))?;
    if reference.registry == "localhost" {
        let what = format!("{field}: no image {text} in the store of this node; localhost/… names imported ones");
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    Ok(reference)
}

fn not_ready(name: &str, status: &moat_api::rest::template::WarmupStatus) -> Error {
    match (status.status.as_str(), &status.error) {
        ("failed", Some(error)) => {
            let what = format!("template {name}: its warm-up failed: {}; warm it up again", error.message);
            Error::new(ErrorKind::Conflict, what)
        }
        ("cancelled", _) => {
            Error::new(ErrorKind::Conflict, format!("template {name}: its warm-up was cancelled; warm it up again"))
        }
        _ => {
            let what = format!("template {name}: is being warmed up ({}); try again when it is ready", status.phase);
            Error::new(ErrorKind::Unavailable, what)
        }
    }
}
