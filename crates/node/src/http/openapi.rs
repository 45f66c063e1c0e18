//! The document of the API, made from the routes; `docs/openapi.json` is a copy that a test compares.

use std::collections::BTreeMap;

use moat_api::rest::ErrorBody;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa::{PartialSchema, ToSchema};

/// Every operation may answer with these, besides its own.
const FAILURES: [(&str, &str); 14] = [
    ("400", "The request cannot work as it stands; the message names the field."),
    ("401", "A key is needed, or this one is not known."),
    ("403", "The caller may not do this, or the sandbox's users may not."),
    ("404", "No such thing that the caller may see."),
    ("405", "This path does not have that method."),
    ("408", "The client sent no byte for too long."),
    ("409", "What it is doing, or already is, does not fit."),
    ("413", "The body is too large."),
    ("415", "The body is of another type."),
    ("422", "This node or this sandbox cannot do that, or the program could not be started."),
    ("429", "A quota, or the node, is full."),
    ("500", "A bug; the daemon's log has it under the id."),
    ("503", "Something that is needed is away, or too much is under way."),
    ("504", "It did not come to an end in its time."),
];

/// What the document says besides the routes.
const DESCRIPTION: &str = "Sandboxes for programs nobody vouches for. Names follow NanoBox where it has them. \
    docs/rest.md explains streams and WebSockets.";

/// The document.
pub fn document() -> OpenApi {
    super::routes::described().split_for_parts().1
}

/// The document as it is served and committed.
pub fn json() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}

/// Adds what every route has.
pub(super) fn complete(document: &mut OpenApi) {
    document.info = utoipa::openapi::InfoBuilder::new()
        .title("moat")
        .version("1")
        .description(Some(DESCRIPTION))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")))
        .build();
    let components = document.components.get_or_insert_with(Default::default);
    components.schemas.insert(ErrorBody::name().into_owned(), ErrorBody::schema());
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("bearer", bearer);
    components.add_security_scheme("api_key", key);
    let none: [&str; 0] = [];
    // The last: nothing at all, which a node without keys accepts from its own machine.
    document.security = Some(vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("api_key", none),
        SecurityRequirement::default(),
    ]);
    let failures: BTreeMap<_, _> =
        FAILURES.iter().map(|(status, meaning)| (*status, failure(status, meaning))).collect();
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for (status, response) in &failures {
            operation.responses.responses.entry((*status).to_owned()).or_insert_with(|| response.clone());
        }
    }
}

fn failure(status: &str, meaning: &str) -> RefOr<utoipa::openapi::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
    let mut response = ResponseBuilder::new().description(meaning).content("application/json", content);
    if matches!(status, "429" | "503") {
        let header = HeaderBuilder::new().description(Some("Seconds to wait before trying again.")).build();
        response = response.header("Retry-After", header);
    }
    RefOr::T(response.build())
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head, &mut item.patch];
    all.into_iter().filter_map(Option::as_mut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_committed_document_is_what_the_routes_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if std::env::var_os("MOAT_REGENERATE").is_some() {
            std::fs::write(&path, json()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == json(), "docs/openapi.json differs: cargo xtask gen writes it anew");
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        let document = serde_json::to_value(document()).unwrap();
        let (mut references, mut names) = (Vec::new(), Vec::new());
        collect(&document, &mut references, &mut names);
        for reference in &references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(all >= 40, "{all} operations");
    }

    fn collect(value: &serde_json::Value, references: &mut Vec<String>, names: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    match (name.as_str(), member) {
                        ("$ref", serde_json::Value::String(target)) => references.push(target.clone()),
                        ("operationId", serde_json::Value::String(id)) => names.push(id.clone()),
                        _ => collect(member, references, names),
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, references, names)),
            _ => {}
        }
    }
}
