//! Whatever stands in a file: an answer, no panic, and in bounded time and memory.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

use moat_formats::nomad::{client, parse};
use moat_formats::{Inputs, Nothing};
use proptest::prelude::*;

/// Read on a stack of the size spawned threads have, with bounds that hold whatever the answer is.
fn read(text: &str) {
    let text = text.to_owned();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        for result in [parse("f", &text, &Inputs::default(), &Nothing).map(drop), client::parse("f", &text).map(drop)] {
            if let Err(problems) = result {
                assert!(!problems.problems.is_empty() && problems.problems.len() <= 20);
                for problem in &problems.problems {
                    assert!(problem.line >= 1 && problem.column >= 1 && problem.width >= 1);
                    assert!(!problem.to_string().is_empty());
                }
            }
        }
    });
    thread.unwrap().join().unwrap();
}

fn refused(text: &str) -> String {
    parse("f", text, &Inputs::default(), &Nothing).map(drop).unwrap_err().to_string()
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{ a = ", "}"), ("-", ""), ("!", ""), ("\"${", "}\""), ("upper(", ")")]
    {
        for depth in [40, 200, 20_000] {
            read(&format!("job \"j\" {{ meta = {}1{} }}", open.repeat(depth), close.repeat(depth)));
        }
    }
    for depth in [50, 5000] {
        read(&format!("{}{}", "a {\n".repeat(depth), "}\n".repeat(depth)));
        read(&format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)));
        read(&"[".repeat(depth));
    }
    read(&format!("job \"j\" {{ meta = {{ a = {} }} }}", vec!["1"; 3000].join("+")));
}

#[test]
fn a_small_file_cannot_cost_much() {
    // Each local is ten of the one before.
    let mut laughs = String::from("locals {\na0 = \"xxxxxxxxxx\"\n");
    for n in 1..30 {
        let one = format!("local.a{}", n - 1);
        laughs.push_str(&format!("a{n} = [{}]\n", [one.as_str(); 10].join(", ")));
    }
    laughs.push_str("}\njob \"j\" { meta = { a = jsonencode(local.a29) } }");
    assert!(refused(&laughs).contains("takes more than"));
    // Each is one level deeper.
    let mut deep = String::from("locals {\na0 = 1\n");
    for n in 1..5000 {
        deep.push_str(&format!("a{n} = [local.a{}]\n", n - 1));
    }
    let forward = format!(
        "{deep}}}\njob \"j\" {{\nmeta = {{\n{}\n}}\n}}",
        (0..5000).map(|n| format!("m{n} = jsonencode(local.a{n})\n")).collect::<String>()
    );
    read(&forward);
    assert!(refused(&format!("{deep}}}\njob \"j\" {{ meta = {{ a = jsonencode(local.a4999) }} }}")).contains("deeper"));
    for (expression, why) in [
        ("range(5000)", "more than 1024"),
        ("[for a in range(1000) : [for b in range(1000) : [for c in range(1000) : c]]]", "takes more than"),
        ("format(\"%99999d\", 1)", "a width is at most"),
        ("indent(5000, \"a\")", "more than 1024"),
        ("setproduct(range(100), range(100))", "more than 4096"),
        (
            "replace(replace(replace(join(\"\", [for a in range(1000) : \"aaaaaaaaaa\"]), \"a\", join(\"\", range(1000))), \"1\", join(\"\", range(1000))), \"2\", join(\"\", range(1000)))",
            "takes more than",
        ),
        ("regexall(\"(a{1000}){1000}\", \"a\")", "not a regular expression"),
    ] {
        let text = format!("job \"j\" {{ meta = {{ a = jsonencode({expression}) }} }}");
        let message = refused(&text);
        assert!(message.contains(why), "{expression}: {message}");
    }
    let many = "job \"j\" {\ndynamic \"group\" {\nfor_each = range(1024)\nlabels = [group.key]\ncontent {\ndynamic \"task\" {\nfor_each = range(1024)\nlabels = [task.key]\ncontent {}\n}\n}\n}\n}";
    assert!(refused(many).contains("takes more than"));
    assert!(refused(&" ".repeat((1 << 20) + 1)).contains("larger than 1 MiB"));
    assert!(refused("locals { a = local.a }\njob \"j\" { meta = { a = local.a } }").contains("defined by itself"));
}

/// Pieces of files, so that what is put together is nearly one.
fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "job \"j\" {\n",
        "group \"g\" {\n",
        "task \"t\" {\n",
        "config {\n",
        "}\n",
        "}",
        "{",
        "[",
        "]",
        "(",
        ")",
        "\"",
        "${",
        "%{",
        "driver = \"exec\"\n",
        "command = \"x\"\n",
        "count = 2\n",
        "a = ",
        "env {\n",
        "meta = {\n",
        "resources {\n",
        "memory = 1\n",
        "dynamic \"group\" {\n",
        "for_each = [1, 2]\n",
        "content {\n",
        "labels = [\"x\"]\n",
        "variable \"x\" {\n",
        "locals {\n",
        "var.x",
        "local.a",
        "attr.b",
        "env[\"A\"]",
        "<<EOT\n",
        "EOT\n",
        "for x in ",
        " : ",
        " ? ",
        "...",
        "[*]",
        ".*",
        "~",
        "null",
        "true",
        "1e999",
        "-1",
        "0.1",
        "upper(",
        "format(\"%d\", ",
        "jsondecode(\"",
        "templatefile(",
        "try(",
        "\\",
        "\\u12",
        "$${",
        "endif }",
        "if true }",
        "network {\nport \"a\" {}\n}\n",
        "service {\ncheck {\ntype = \"tcp\"\n",
        "restart { attempts = 0 }\n",
        "\"TaskGroups\": [",
        "{\"Job\": {\"ID\": \"j\", ",
        "{\"job\": {\"j\": {",
        "\"group\": {",
        "\u{1f}",
        "ä",
        "\t",
        "\r\n",
        "# c\n",
        "/* ",
        "update { max_parallel = ",
        "artifact { source = ",
        "template { data = ",
        "constraint {\n",
        "periodic { cron = \"@daily\" }\n",
    ]);
    prop_oneof![6 => fixed.prop_map(str::to_owned), 1 => ".{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(pieces in prop::collection::vec(piece(), 0..40)) {
        read(&pieces.concat());
    }

    #[test]
    fn no_damage_to_a_file_panics(at in 0usize..4000, length in 0usize..40, with in piece()) {
        for text in [include_str!("golden/web.nomad.hcl"), include_str!("golden/api.json"), include_str!("golden/nightly.nomad.json")] {
            let chars: Vec<char> = text.chars().collect();
            let at = at % chars.len();
            let end = (at + length).min(chars.len());
            let damaged: String = chars[..at].iter().chain(with.chars().collect::<Vec<_>>().iter()).chain(&chars[end..]).collect();
            read(&damaged);
        }
    }
}
