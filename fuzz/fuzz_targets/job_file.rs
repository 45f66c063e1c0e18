//! Job files and client configuration: what anybody sends must be answered.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moat_formats::nomad::{client, parse};
use moat_formats::{Inputs, Nothing};

fuzz_target!(|text: &str| {
    if let Err(problems) = parse("file", text, &Inputs::default(), &Nothing) {
        assert!(!problems.problems.is_empty() && !problems.to_string().is_empty());
    }
    let _ = client::parse("file", text);
});
