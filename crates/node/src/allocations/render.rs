//! Templates of tasks: Go's language, and the few functions a task may call. Blocking; no I/O but what [`Lookups`] does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use gtmpl_ng::{Context, FuncError, Limits, Template, Value};

use super::front::ServiceInstance;

/// What templates ask for beyond their text.
pub(super) trait Lookups {
    fn env(&self, name: &str) -> Option<String>;
    fn services(&self, name: &str) -> Result<Vec<ServiceInstance>, String>;
    fn key(&self, name: &str) -> Result<Option<String>, String>;
}

/// A text and how it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub text: &'a str,
    pub left: &'a str,
    pub right: &'a str,
    /// A key that is missing is an error.
    pub strict: bool,
    /// Functions nobody may call here.
    pub denied: &'a [String],
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    pub text: String,
    /// It asked for something that may change.
    pub looked_up: bool,
}

/// Functions of the tool job files know that are not here, and why.
const REFUSED: [(&str, &str); 17] = [
    ("file", "reads a file of the host; fetch it with an artifact and name it as the template's source"),
    ("executeTemplate", "is denied"),
    ("plugin", "starts a program of the host"),
    ("writeToFile", "writes where a template may not"),
    ("nomadVar", "there are no Nomad variables; use key, or the task's env"),
    ("nomadVarExists", "there are no Nomad variables; use key, or the task's env"),
    ("nomadVarList", "there are no Nomad variables; use key, or the task's env"),
    ("nomadVarListSafe", "there are no Nomad variables; use key, or the task's env"),
    ("nomadServices", "only services by name are known: nomadService"),
    ("services", "only services by name are known: service"),
    ("secret", "there is no Vault"),
    ("secrets", "there is no Vault"),
    ("pkiCert", "there is no Vault"),
    ("keyExists", "use keyOrDefault"),
    ("ls", "use key"),
    ("tree", "use key"),
    ("connect", "there is no Consul"),
];

type Lent = Rc<dyn Lookups>;

thread_local! {
    /// Functions of templates are plain ones: what they work on stands here while one thread renders.
    static CURRENT: RefCell<Option<Run>> = const { RefCell::new(None) };
}

struct Run {
    lookups: Lent,
    strict: bool,
    looked_up: bool,
}

/// Renders one.
pub(super) fn render(source: Source<'_>, lookups: Rc<dyn Lookups>) -> Result<Rendered, String> {
    for (name, why) in REFUSED {
        if calls(source, name) {
            return Err(format!("function {name}: {why}"));
        }
    }
    if let Some(name) = source.denied.iter().find(|name| calls(source, name)) {
        return Err(format!("function {name}: is denied by the operator of this node"));
    }
    let mut template = Template::with_limits(Limits::default());
    template.add_funcs(&[
        ("env", env as gtmpl_ng::Func),
        ("envOrDefault", env_or_default),
        ("mustEnv", must_env),
        ("key", key),
        ("keyOrDefault", key_or_default),
        ("service", service),
        ("nomadService", service),
        ("toLower", to_lower),
        ("toUpper", to_upper),
        ("trimSpace", trim_space),
        ("split", split),
        ("join", join),
    ]);
    template.parse(with_delimiters(source)).map_err(|e| e.to_string())?;
    CURRENT.set(Some(Run { lookups, strict: source.strict, looked_up: false }));
    let rendered = template.render(&Context::empty());
    let looked_up = CURRENT.take().is_some_and(|run| run.looked_up);
    let text = rendered.map_err(|e| e.to_string())?;
    if source.strict && text.contains("<no value>") {
        return Err("a key is missing, and error_on_missing_key is set".to_owned());
    }
    Ok(Rendered { text: text.replace("<no value>", ""), looked_up })
}

/// Whether the text calls a function of this name. One that only holds the word in its text is none.
fn calls(source: Source<'_>, name: &str) -> bool {
    let mut rest = source.text;
    while let Some(at) = rest.find(source.left) {
        let after = rest.get(at + source.left.len()..).unwrap_or_default();
        let (action, tail) = after.split_once(source.right).unwrap_or((after, ""));
        let mut quoted = false;
        let bare: String = action
            .chars()
            .map(|c| {
                quoted ^= c == '"' || c == '`';
                if quoted { ' ' } else { c }
            })
            .collect();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$';
        if bare.split(|c| !is_word(c)).any(|word| word == name) {
            return true;
        }
        rest = tail;
    }
    false
}

/// The same text with the delimiters the engine knows.
fn with_delimiters(source: Source<'_>) -> String {
    let Source { text, left, right, .. } = source;
    if (left, right) == ("{{", "}}") || left.is_empty() || right.is_empty() {
        return text.to_owned();
    }
    let literal = |text: &str| text.replace("{{", "{{\"{{\"}}");
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(left) {
        let Some((action, tail)) = after.split_once(right) else { break };
        out.push_str(&literal(before));
        out.push_str(&format!("{{{{{action}}}}}"));
        rest = tail;
    }
    out.push_str(&literal(rest));
    out
}

fn refuse(text: impl Into<String>) -> FuncError {
    FuncError::Generic(text.into())
}

fn text_of(args: &[Value], at: usize) -> Result<String, FuncError> {
    match args.get(at) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(refuse(format!("argument {} must be a text", at + 1))),
    }
}

fn with<T>(ask: impl FnOnce(&mut Run) -> Result<T, FuncError>) -> Result<T, FuncError> {
    CURRENT.with_borrow_mut(|run| ask(run.as_mut().ok_or_else(|| refuse("nothing is being rendered"))?))
}

fn env(args: &[Value]) -> Result<Value, FuncError> {
    let name = text_of(args, 0)?;
    with(|run| match run.lookups.env(&name) {
        None if run.strict => Err(refuse(format!("env {name}: is not set"))),
        value => Ok(Value::String(value.unwrap_or_default())),
    })
}

fn must_env(args: &[Value]) -> Result<Value, FuncError> {
    let name = text_of(args, 0)?;
    with(|run| run.lookups.env(&name).map(Value::String).ok_or_else(|| refuse(format!("env {name}: is not set"))))
}

fn env_or_default(args: &[Value]) -> Result<Value, FuncError> {
    let (name, other) = (text_of(args, 0)?, text_of(args, 1)?);
    with(|run| Ok(Value::String(run.lookups.env(&name).unwrap_or(other))))
}

fn key(args: &[Value]) -> Result<Value, FuncError> {
    let name = text_of(args, 0)?;
    with(|run| {
        run.looked_up = true;
        let found = run.lookups.key(&name).map_err(refuse)?;
        found.map(Value::String).ok_or_else(|| refuse(format!("key {name}: is not there")))
    })
}

fn key_or_default(args: &[Value]) -> Result<Value, FuncError> {
    let (name, other) = (text_of(args, 0)?, text_of(args, 1)?);
    with(|run| {
        run.looked_up = true;
        Ok(Value::String(run.lookups.key(&name).map_err(refuse)?.unwrap_or(other)))
    })
}

fn service(args: &[Value]) -> Result<Value, FuncError> {
    let name = text_of(args, args.len().saturating_sub(1))?;
    with(|run| {
        run.looked_up = true;
        let found = run.lookups.services(&name).map_err(refuse)?;
        Ok(Value::Array(found.into_iter().map(instance).collect()))
    })
}

fn instance(found: ServiceInstance) -> Value {
    let fields = [
        ("Name", Value::String(found.name)),
        ("Address", Value::String(found.address)),
        ("Port", Value::from(i64::from(found.port))),
        ("Tags", Value::Array(found.tags.into_iter().map(Value::String).collect())),
        ("AllocID", Value::String(found.alloc)),
    ];
    Value::Map(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn to_lower(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::String(text_of(args, 0)?.to_lowercase()))
}

fn to_upper(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::String(text_of(args, 0)?.to_uppercase()))
}

fn trim_space(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::String(text_of(args, 0)?.trim().to_owned()))
}

fn split(args: &[Value]) -> Result<Value, FuncError> {
    let (separator, text) = (text_of(args, 0)?, text_of(args, 1)?);
    Ok(Value::Array(text.split(&separator).map(|part| Value::String(part.to_owned())).collect()))
}

fn join(args: &[Value]) -> Result<Value, FuncError> {
    let separator = text_of(args, 0)?;
    let Some(Value::Array(parts)) = args.get(1) else { return Err(refuse("argument 2 must be a list")) };
    let texts: Vec<String> = (0..parts.len()).map(|at| text_of(parts, at)).collect::<Result<_, _>>()?;
    Ok(Value::String(texts.join(&separator)))
}

/// Lines `KEY=value` of a rendered text; blank ones and comments are skipped.
pub(super) fn env_lines(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("line {}: is not KEY=value", number + 1));
        };
        let value = value.trim();
        let bare = |quote: char| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
        let value = match (bare('"'), bare('\'')) {
            (Some(inner), _) => inner.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\"),
            (None, Some(inner)) => inner.to_owned(),
            (None, None) => value.to_owned(),
        };
        env.insert(key.trim().to_owned(), value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Lookups for Fixed {
        fn env(&self, name: &str) -> Option<String> {
            (name == "WHO").then(|| "world".to_owned())
        }
        fn services(&self, name: &str) -> Result<Vec<ServiceInstance>, String> {
            let one = |port| ServiceInstance {
                name: name.to_owned(),
                address: "192.0.2.1".to_owned(),
                port,
                tags: Vec::new(),
                alloc: String::new(),
            };
            Ok(vec![one(1), one(2)])
        }
        fn key(&self, name: &str) -> Result<Option<String>, String> {
            Ok((name == "there").then(|| "value".to_owned()))
        }
    }

    fn run(text: &str) -> Result<String, String> {
        let source = Source { text, left: "{{", right: "}}", strict: false, denied: &["toUpper".to_owned()] };
        render(source, Rc::new(Fixed)).map(|rendered| rendered.text)
    }

    #[test]
    fn what_a_template_may_say() {
        for (text, wanted) in [
            ("Hello {{ env \"WHO\" }}", "Hello world"),
            ("{{ env \"NONE\" }}.", "."),
            ("{{ range service \"db\" }}{{ .Address }}:{{ .Port }} {{ end }}", "192.0.2.1:1 192.0.2.1:2 "),
            ("{{ key \"there\" }}{{ keyOrDefault \"not\" \"!\" }}", "value!"),
            ("{{ if eq (env \"WHO\") \"world\" }}yes{{ end }}", "yes"),
            ("the word file and {{ \"file\" }}", "the word file and file"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_it_may_not_is_named() {
        for (text, word) in [
            ("{{ file \"/etc/shadow\" }}", "function file"),
            ("{{ with nomadVar \"x\" }}{{ end }}", "function nomadVar"),
            ("{{ plugin \"id\" }}", "function plugin"),
            ("{{ toUpper \"x\" }}", "denied by the operator"),
            ("{{ key \"not\" }}", "key not"),
            ("{{ nothingLikeThis }}", "nothingLikeThis"),
        ] {
            let error = run(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn delimiters_strictness_and_lookups() {
        let source = Source { text: "{{x}} [[ env \"WHO\" ]]", left: "[[", right: "]]", strict: true, denied: &[] };
        let rendered = render(source, Rc::new(Fixed)).unwrap();
        assert_eq!((rendered.text.as_str(), rendered.looked_up), ("{{x}} world", false));
        let source = Source { text: "{{ env \"NONE\" }}", left: "{{", right: "}}", strict: true, denied: &[] };
        assert!(render(source, Rc::new(Fixed)).unwrap_err().contains("NONE"));
        let source = Source { text: "{{ key \"there\" }}", left: "{{", right: "}}", strict: true, denied: &[] };
        assert!(render(source, Rc::new(Fixed)).unwrap().looked_up);
    }

    #[test]
    fn lines_become_an_environment() {
        let env = env_lines("# note\nA=1\n\nexport B = \"two\\nlines\"\nC='x=y'\n").unwrap();
        let wanted = [("A", "1"), ("B", "two\nlines"), ("C", "x=y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(env, BTreeMap::from(wanted));
        assert!(env_lines("A\n").unwrap_err().contains("line 1"));
    }
}
