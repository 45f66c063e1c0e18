//! What processes of a template get: what the image says, under what whoever made the template says.

use moat_api::rest::template::{TemplateDefaults, Warmup};
use moat_image::store::ImageConfig;

/// The image's defaults.
pub(super) fn of_image(config: &ImageConfig) -> TemplateDefaults {
    TemplateDefaults {
        env: config.env.clone(),
        // As every container engine reads an image without one.
        user: config.user.clone().or_else(|| Some("0".to_owned())),
        workdir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        stop_signal: config.stop_signal.clone(),
    }
}

/// The template's.
pub(super) fn of_template(config: &ImageConfig, request: &Warmup) -> TemplateDefaults {
    let mut defaults = of_image(config);
    defaults.env.extend(request.env.clone());
    defaults.user = request.user.clone().or(defaults.user);
    defaults.workdir = request.workdir.clone().or(defaults.workdir);
    defaults
}
