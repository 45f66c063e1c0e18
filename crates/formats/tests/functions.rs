//! Expressions and their values.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

use std::collections::BTreeMap;

use moat_formats::nomad::parse;
use moat_formats::{Around, Inputs};

/// A small world that never changes.
struct World;

impl Around for World {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "a.txt" => Ok(b"content\n".to_vec()),
            "t.tpl" => Ok(b"hello ${name}%{ if loud }!%{ endif }".to_vec()),
            other => Err(format!("there is no file {other}")),
        }
    }

    fn exists(&self, path: &str) -> Result<bool, String> {
        Ok(path == "a.txt")
    }

    fn list(&self, _: &str, _: usize) -> Result<Vec<String>, String> {
        Ok(["a.txt", "b.md", "d/c.txt", "d/e/f.txt"].map(str::to_owned).to_vec())
    }

    fn absolute(&self, path: &str) -> Result<String, String> {
        Ok(path.replacen('~', "/home/u", 1))
    }

    fn now(&self) -> Result<i64, String> {
        Ok(0)
    }

    fn random(&self) -> Result<[u8; 16], String> {
        Ok([7; 16])
    }
}

/// The value of an expression as JSON, or as text if it waits for a node.
fn value(expression: &str) -> String {
    let text = format!(
        "locals {{\nv = {expression}\n}}\njob \"j\" {{\nmeta = {{ v = jsonencode(local.v) }}\ntask \"t\" {{\ndriver = \"exec\"\nconfig {{ command = \"x\" }}\n}}\n}}"
    );
    match parse("e", &text, &Inputs::default(), &World) {
        Ok(job) => job.meta["v"].clone(),
        Err(problems) => format!("error: {}", problems.problems[0].message),
    }
}

#[test]
fn every_function_computes() {
    let table = [
        ("abs(-3)", "3"),
        ("abspath(\"~/x\")", "\"/home/u/x\""),
        ("alltrue([true, false])", "false"),
        ("anytrue([true, false])", "true"),
        ("base64decode(\"aGk=\")", "\"hi\""),
        ("base64encode(\"hi\")", "\"aGk=\""),
        ("basename(\"/a/b.c\")", "\"b.c\""),
        ("can(local.none)", "false"),
        ("ceil(1.2)", "2"),
        ("chomp(\"a\\n\")", "\"a\""),
        ("chunklist([1, 2, 3], 2)", "[[1,2],[3]]"),
        ("cidrhost(\"10.0.0.0/8\", 5)", "\"10.0.0.5\""),
        ("cidrhost(\"10.0.0.0/24\", -1)", "\"10.0.0.255\""),
        ("cidrnetmask(\"172.16.0.0/12\")", "\"255.240.0.0\""),
        ("cidrsubnet(\"10.0.0.0/8\", 8, 2)", "\"10.2.0.0/16\""),
        ("cidrsubnets(\"10.0.0.0/8\", 8, 8, 4)", "[\"10.0.0.0/16\",\"10.1.0.0/16\",\"10.16.0.0/12\"]"),
        ("coalesce(null, \"\", \"a\")", "\"a\""),
        ("coalescelist([], [1])", "[1]"),
        ("compact([\"a\", \"\", null, \"b\"])", "[\"a\",\"b\"]"),
        ("concat([1], [2, 3])", "[1,2,3]"),
        ("contains([\"a\"], \"a\")", "true"),
        ("convert(\"5\", number)", "5"),
        ("csvdecode(\"a,b\\n1,\\\"x,y\\\"\\n\")", "[{\"a\":\"1\",\"b\":\"x,y\"}]"),
        ("dirname(\"/a/b.c\")", "\"/a\""),
        ("distinct([1, 1, 2])", "[1,2]"),
        ("element([1, 2], 3)", "2"),
        ("endswith(\"abc\", \"bc\")", "true"),
        ("file(\"a.txt\")", "\"content\\n\""),
        ("filebase64(\"a.txt\")", "\"Y29udGVudAo=\""),
        ("fileexists(\"b\")", "false"),
        ("fileset(\".\", \"**/*.txt\")", "[\"a.txt\",\"d/c.txt\",\"d/e/f.txt\"]"),
        ("fileset(\".\", \"*.{txt,md}\")", "[\"a.txt\",\"b.md\"]"),
        ("flatten([[1], [[2], 3]])", "[1,2,3]"),
        ("floor(-1.2)", "-2"),
        (
            "format(\"%s-%03d|%5s|%-4s|%.2f|%x|%q|%%\", \"a\", 7, \"b\", \"c\", 1.5, 255, \"d\")",
            "\"a-007|    b|c   |1.50|ff|\\\"d\\\"|%\"",
        ),
        (
            "formatdate(\"YYYY-MM-DD'T'hh:mm:ssZ EEE MMM\", \"1970-01-02T03:04:05Z\")",
            "\"1970-01-02T03:04:05Z Fri Jan\"",
        ),
        ("formatlist(\"%s/%s\", [\"a\", \"b\"], \"c\")", "[\"a/c\",\"b/c\"]"),
        ("indent(2, \"a\\nb\")", "\"a\\n  b\""),
        ("index([\"a\", \"b\"], \"b\")", "1"),
        ("join(\",\", [\"a\", 1])", "\"a,1\""),
        ("jsondecode(\"{\\\"a\\\": [1, null]}\")", "{\"a\":[1,null]}"),
        ("jsonencode([true])", "\"[true]\""),
        ("keys({ b = 1, a = 2 })", "[\"a\",\"b\"]"),
        ("length(\"äb\")", "2"),
        ("log(8, 2)", "3"),
        ("lookup({ a = 1 }, \"b\", 2)", "2"),
        ("lower(\"AB\")", "\"ab\""),
        ("max(1, 3, 2)", "3"),
        ("md5(\"\")", "\"d41d8cd98f00b204e9800998ecf8427e\""),
        ("merge({ a = 1 }, { a = 2, b = 3 })", "{\"a\":2,\"b\":3}"),
        ("min(1, 3, 2)", "1"),
        ("one([])", "null"),
        ("parseint(\"ff\", 16)", "255"),
        ("pathexpand(\"/x\")", "\"/x\""),
        ("pow(2, 10)", "1024"),
        ("range(3)", "[0,1,2]"),
        ("range(3, 0, -2)", "[3,1]"),
        ("regex(\"[a-z]+\", \"12ab\")", "\"ab\""),
        ("regex(\"(?P<x>[a-z])([0-9])?\", \"a\").x", "\"a\""),
        ("regex_replace(\"abc\", \"b\", \"x\")", "\"axc\""),
        ("regexall(\"[a-z]\", \"a1b\")", "[\"a\",\"b\"]"),
        ("replace(\"a.b\", \".\", \"-\")", "\"a-b\""),
        ("replace(\"a1b\", \"/[0-9]/\", \"-\")", "\"a-b\""),
        ("reverse([1, 2])", "[2,1]"),
        ("setintersection([1, 2], [2, 3])", "[2]"),
        ("setproduct([1, 2], [\"a\"])", "[[1,\"a\"],[2,\"a\"]]"),
        ("setsubtract([1, 2], [2])", "[1]"),
        ("setsymmetricdifference([1, 2], [2, 3])", "[1,3]"),
        ("setunion([1], [1, 2])", "[1,2]"),
        ("sha1(\"\")", "\"da39a3ee5e6b4b0d3255bfef95601890afd80709\""),
        ("sha256(\"\") == \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"", "true"),
        ("sha512(\"a\") == sha512(\"b\")", "false"),
        ("signum(-2)", "-1"),
        ("slice([1, 2, 3], 1, 3)", "[2,3]"),
        ("sort([\"b\", \"a\"])", "[\"a\",\"b\"]"),
        ("split(\",\", \"a,b\")", "[\"a\",\"b\"]"),
        ("startswith(\"abc\", \"ab\")", "true"),
        ("strcontains(\"abc\", \"x\")", "false"),
        ("strlen(\"äb\")", "2"),
        ("strrev(\"abc\")", "\"cba\""),
        ("substr(\"hello\", -3, 2)", "\"ll\""),
        ("sum([1, 2, 3])", "6"),
        ("templatefile(\"t.tpl\", { name = \"x\", loud = true })", "\"hello x!\""),
        ("timeadd(\"1970-01-01T00:00:00Z\", \"-1h30m\")", "\"1969-12-31T22:30:00Z\""),
        ("timestamp()", "\"1970-01-01T00:00:00Z\""),
        ("title(\"hello world\")", "\"Hello World\""),
        ("trim(\"xxaxx\", \"x\")", "\"a\""),
        ("trimprefix(\"ab\", \"a\")", "\"b\""),
        ("trimspace(\" a \")", "\"a\""),
        ("trimsuffix(\"ab\", \"b\")", "\"a\""),
        ("try(local.none, 5)", "5"),
        ("upper(\"ab\")", "\"AB\""),
        ("urlencode(\"a b/ä\")", "\"a+b%2F%C3%A4\""),
        ("uuidv4()", "\"07070707-0707-4707-8707-070707070707\""),
        ("uuidv5(\"dns\", \"example.com\")", "\"cfbff0d1-9375-5685-968c-48ce8b15ae17\""),
        ("values({ b = 1, a = 2 })", "[2,1]"),
        ("zipmap([\"a\"], [1])", "{\"a\":1}"),
    ];
    for (expression, expected) in table {
        assert_eq!(value(expression), expected, "{expression}");
    }
    let mut called: Vec<&str> = table.iter().map(|(text, _)| text.split('(').next().unwrap()).collect();
    called.sort_unstable();
    called.dedup();
    assert_eq!(called, moat_formats::nomad::functions(), "each function has a row");
}

#[test]
fn the_language() {
    for (expression, expected) in [
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("!(1 < 2) || 2 >= 2 && 3 != 4", "true"),
        ("\"5\" + 1", "6"),
        ("1 == 1.0", "true"),
        ("\"1\" == 1", "false"),
        ("-(-3)", "3"),
        ("false ? local.none : 7", "7"),
        ("[for x in [1, 2, 3] : x * 2 if x > 1]", "[4,6]"),
        ("{ for k, v in { a = 1 } : v => k }", "{\"1\":\"a\"}"),
        ("{ for x in [\"a\", \"b\", \"ab\"] : substr(x, 0, 1) => x... }", "{\"a\":[\"a\",\"ab\"],\"b\":[\"b\"]}"),
        ("[{ a = 1 }, { a = 2 }][*].a", "[1,2]"),
        ("[{ a = [1] }].*.a", "[[1]]"),
        ("max([1, 5, 2]...)", "5"),
        ("{ (upper(\"a\")) = 1, \"b c\" = 2 }", "{\"A\":1,\"b c\":2}"),
        ("\"a${1 + 1}b%{ if true }c%{ else }d%{ endif }\"", "\"a2bc\""),
        ("\"${[1, 2]}\"", "[1,2]"),
        ("\"a  ${~ 1 ~}  b\"", "\"a1b\""),
        ("\"%{ for x in [1, 2] }<${x}>%{ endfor }\"", "\"<1><2>\""),
        ("\"$${x} %%{y}\"", "\"${x} %{y}\""),
        ("\"\\u00e4\\t\\\"\"", "\"ä\\t\\\"\""),
        ("<<EOT\n a\nb\nEOT\n", "\" a\\nb\\n\""),
        ("<<-EOT\n  a\n   b\n  EOT\n", "\"a\\n b\\n\""),
        ("1e3", "1000"),
        ("null", "null"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn what_a_node_fills_in_stays_as_it_is() {
    let text = r#"
    job "j" {
      meta = {
        a = "${NOMAD_ALLOC_ID}-${ attr.kernel.name }"
        b = attr.unique.hostname
        c = "${env["HOME"]}/x"
        d = join(":", ["${NOMAD_PORT_http}", "y"])
        e = format("%s!", node.class)
        f = "$${SHELL}"
        g = "${meta.rack-id}"
      }
      task "t" {
        driver = "exec"
        config { command = "x" }
      }
    }"#;
    let job = parse("e", text, &Inputs::default(), &World).unwrap_or_else(|problems| panic!("{problems}"));
    let expected = BTreeMap::from(
        [
            ("a", "${NOMAD_ALLOC_ID}-${attr.kernel.name}"),
            ("b", "${attr.unique.hostname}"),
            ("c", "${env[\"HOME\"]}/x"),
            ("d", "${NOMAD_PORT_http}:y"),
            ("e", "${node.class}!"),
            ("f", "${SHELL}"),
            ("g", "${meta.rack-id}"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    assert_eq!(job.meta, expected);
}

fn with_inputs(declared: &str, inputs: &Inputs) -> String {
    let text = format!(
        "{declared}\njob \"j\" {{\nmeta = {{ v = jsonencode(var.x) }}\ntask \"t\" {{\ndriver = \"exec\"\nconfig {{ command = \"x\" }}\n}}\n}}"
    );
    match parse("e", &text, inputs, &World) {
        Ok(job) => job.meta["v"].clone(),
        Err(problems) => format!("error: {}", problems.problems[0]),
    }
}

fn var(value: &str) -> Inputs {
    Inputs { vars: vec![("x".to_owned(), value.to_owned())], ..Inputs::default() }
}

#[test]
fn variables_have_types_and_the_last_that_gives_one_wins() {
    for (declared, given, expected) in [
        ("variable \"x\" {}", "a b", "\"a b\""),
        ("variable \"x\" { type = string }", "5", "\"5\""),
        ("variable \"x\" { type = number }", "5", "5"),
        ("variable \"x\" { type = bool }", "true", "true"),
        ("variable \"x\" { type = list(string) }", "[\"a\", 1]", "[\"a\",\"1\"]"),
        ("variable \"x\" { type = set(string) }", "[\"b\", \"a\", \"b\"]", "[\"a\",\"b\"]"),
        ("variable \"x\" { type = map(number) }", "{ a = \"1\" }", "{\"a\":1}"),
        (
            "variable \"x\" { type = object({ a = string, b = optional(number) }) }",
            "{ a = 1 }",
            "{\"a\":\"1\",\"b\":null}",
        ),
        ("variable \"x\" { type = tuple([string, bool]) }", "[1, true]", "[\"1\",true]"),
        ("variable \"x\" { default = [] }", "[1]", "[1]"),
    ] {
        assert_eq!(with_inputs(declared, &var(given)), expected, "{declared} {given}");
    }
    let mut inputs = Inputs::default();
    let declared = "variable \"x\" { default = \"default\" }";
    assert_eq!(with_inputs(declared, &inputs), "\"default\"");
    inputs.environment.insert("x".to_owned(), "environment".to_owned());
    inputs.environment.insert("other".to_owned(), "of somebody else".to_owned());
    assert_eq!(with_inputs(declared, &inputs), "\"environment\"");
    inputs.files.push(("v.hcl".to_owned(), "x = \"file\"".to_owned()));
    assert_eq!(with_inputs(declared, &inputs), "\"file\"");
    inputs.files.push(("v.json".to_owned(), "{\"x\": \"json\"}".to_owned()));
    assert_eq!(with_inputs(declared, &inputs), "\"json\"");
    inputs.vars = var("given").vars;
    assert_eq!(with_inputs(declared, &inputs), "\"given\"");
    inputs.vars = vec![("y".to_owned(), "1".to_owned())];
    assert!(with_inputs(declared, &inputs).contains("-var y:1:1: the file declares no variable \"y\""));
    inputs = Inputs { files: vec![("v.hcl".to_owned(), "\nz = 1".to_owned())], ..Inputs::default() };
    assert!(with_inputs(declared, &inputs).contains("v.hcl:2:1: the file declares no variable \"z\""));
    assert!(with_inputs("variable \"x\" { type = number }", &var("five")).contains("five"));
    assert!(with_inputs("variable \"x\" { type = list(number) }", &var("[")).contains("not an expression"));
}
