//! Differences of values, block by block, by the names they have in job files.

use moat_model::job::{FieldDiff, ObjectDiff};
use serde::Serialize;
use serde_json::{Map, Value};

use super::value;

/// What differs of a block.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) fields: Vec<FieldDiff>,
    pub(super) objects: Vec<ObjectDiff>,
}

/// Names in job files that are others than the model's.
const NAMES: [(&str, &str); 22] = [
    ("affinities", "affinity"),
    ("artifacts", "artifact"),
    ("checks", "check"),
    ("constraints", "constraint"),
    ("cpu_mhz", "cpu"),
    ("disk_mb", "disk"),
    ("fixed", "static"),
    ("max_file_size_mb", "max_file_size"),
    ("memory_max_mb", "memory_max"),
    ("memory_mb", "memory"),
    ("ports", "port"),
    ("secrets_mb", "secrets"),
    ("services", "service"),
    ("size_mb", "size"),
    ("spreads", "spread"),
    ("targets", "target"),
    ("templates", "template"),
    ("volume_mounts", "volume_mount"),
    ("volumes", "volume"),
    ("groups", "group"),
    ("tasks", "task"),
    ("kind", "type"),
];

/// Tables whose keys are labels of blocks.
const LABELLED: [&str; 2] = ["port", "volume"];

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.objects.is_empty()
    }

    fn named(&mut self, name: &str, old: &Value, new: &Value) {
        let (old, new) = (present(old), present(new));
        if old == new {
            return;
        }
        match (old, new) {
            (None, None) => {}
            (Some(Value::Object(_)), Some(Value::Object(_)) | None) | (None, Some(Value::Object(_)))
                if old.and_then(span).is_none() && new.and_then(span).is_none() =>
            {
                self.table(name, table(old), table(new));
            }
            (Some(Value::Array(_)), Some(Value::Array(_)) | None) | (None, Some(Value::Array(_))) => {
                self.list(name, items(old), items(new));
            }
            _ => self.field(name, old.map(text).as_deref(), new.map(text).as_deref()),
        }
    }

    fn field(&mut self, name: &str, old: Option<&str>, new: Option<&str>) {
        let kind = super::kind(old.is_some(), new.is_some(), true);
        let (old, new) = (old.unwrap_or_default().to_owned(), new.unwrap_or_default().to_owned());
        self.fields.push(FieldDiff { kind, name: name.to_owned(), old, new, annotations: Vec::new() });
    }

    fn table(&mut self, name: &str, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) {
        let inner = entries(old, new, &[]);
        if LABELLED.contains(&name) {
            let labelled = inner.objects.into_iter();
            self.objects.extend(labelled.map(|one| ObjectDiff { name: format!("{name} {:?}", one.name), ..one }));
            return;
        }
        self.object(name, old.is_some(), new.is_some(), inner);
    }

    fn object(&mut self, name: &str, old: bool, new: bool, inner: Changes) {
        let kind = super::kind(old, new, true);
        let Changes { fields, objects } = inner;
        self.objects.push(ObjectDiff { kind, name: name.to_owned(), fields, objects });
    }

    fn list(&mut self, name: &str, old: &[Value], new: &[Value]) {
        if !old.iter().chain(new).all(Value::is_object) {
            let longest = old.len().max(new.len());
            for at in 0..longest {
                let (before, after) = (old.get(at).unwrap_or(&Value::Null), new.get(at).unwrap_or(&Value::Null));
                self.named(&format!("{name}[{at}]"), before, after);
            }
            return;
        }
        // Blocks with a name are the same block; others are the same only if nothing differs.
        let same = |a: &Value, b: &Value| match (a.get("name"), b.get("name")) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        };
        for before in old {
            let after = new.iter().find(|after| same(before, after));
            if after.is_none_or(|after| after != before) {
                let inner = entries(before.as_object(), after.and_then(Value::as_object), &["name"]);
                self.object(&labelled(name, before), true, after.is_some(), inner);
            }
        }
        for after in new.iter().filter(|after| !old.iter().any(|before| same(before, after))) {
            self.object(&labelled(name, after), false, true, entries(None, after.as_object(), &["name"]));
        }
    }
}

fn labelled(name: &str, block: &Value) -> String {
    match block.get("name").and_then(Value::as_str) {
        Some(label) => format!("{name} {label:?}"),
        None => name.to_owned(),
    }
}

/// What differs of two blocks, but for some of their entries.
pub(super) fn changes(old: Option<&impl Serialize>, new: Option<&impl Serialize>, without: &[&str]) -> Changes {
    entries(value(old).as_object(), value(new).as_object(), without)
}

fn entries(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, without: &[&str]) -> Changes {
    let mut keys: Vec<&String> = old.into_iter().chain(new).flat_map(Map::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut changes = Changes::default();
    for key in keys.into_iter().filter(|key| !without.contains(&key.as_str())) {
        let get = |of: Option<&Map<String, Value>>| of.and_then(|of| of.get(key)).cloned().unwrap_or_default();
        let name = NAMES.iter().find(|(model, _)| model == key).map_or(key.as_str(), |(_, name)| name);
        changes.named(name, &get(old), &get(new));
    }
    changes
}

/// Nothing, an empty list and an empty table are the same: not there.
fn present(value: &Value) -> Option<&Value> {
    match value {
        Value::Null => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(entries) if entries.is_empty() => None,
        value => Some(value),
    }
}

fn table(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A span of time as job files write it.
fn span(value: &Value) -> Option<String> {
    let table = value.as_object().filter(|table| table.len() == 2)?;
    let (seconds, nanos) = (table.get("secs")?.as_u64()?, table.get("nanos")?.as_u64()?);
    let (hours, minutes, rest) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    let mut text = String::new();
    for (number, unit) in [(hours, "h"), (minutes, "m"), (rest, "s"), (nanos / 1_000_000, "ms")] {
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    Some(if text.is_empty() { "0s".to_owned() } else { text })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => span(value).unwrap_or_else(|| value.to_string()),
    }
}
