//! Whole files and the jobs they are, every default filled in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

use moat_formats::nomad::{parse, rules};
use moat_formats::{Inputs, Nothing};
use moat_model::job::Job;

fn job(name: &str) -> Job {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    parse(name, &text, &Inputs::default(), &Nothing).unwrap_or_else(|problems| panic!("{problems}"))
}

fn golden(name: &str) {
    let job = job(name);
    let json = serde_json::to_string_pretty(&job).unwrap();
    insta::assert_snapshot!(name, json);
    // The wire form is the model's, and keeps everything.
    assert_eq!(serde_json::from_str::<Job>(&json).unwrap(), job);
    assert_eq!(rules::check(&job), []);
}

#[test]
fn hcl() {
    golden("web.nomad.hcl");
}

#[test]
fn the_json_of_hcl() {
    golden("nightly.nomad.json");
}

#[test]
fn the_json_of_the_api() {
    golden("api.json");
}
