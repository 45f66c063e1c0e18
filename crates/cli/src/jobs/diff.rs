//! How two versions of a job differ, as text.

use moat_model::job::diff::{DiffKind, FieldDiff, GroupDiff, JobDiff, ObjectDiff, TaskDiff};
use owo_colors::Style;

use crate::output::Output;

/// All of it. Values that do not differ are shown only if asked for.
pub fn render(output: &Output, diff: &JobDiff, verbose: bool) -> String {
    let mut lines = Lines { output, verbose, text: String::new() };
    lines.head(0, diff.kind, &format!("job {:?}", diff.id));
    lines.fields(1, &diff.fields);
    lines.objects(1, &diff.objects);
    for group in &diff.groups {
        lines.group(group);
    }
    lines.text
}

struct Lines<'a> {
    output: &'a Output,
    verbose: bool,
    text: String,
}

impl Lines<'_> {
    fn head(&mut self, depth: usize, kind: DiffKind, what: &str) {
        let sign = match kind {
            DiffKind::None => self.output.styled("   ", Style::new()),
            DiffKind::Added => self.output.styled("+  ", Style::new().green()),
            DiffKind::Deleted => self.output.styled("-  ", Style::new().red()),
            DiffKind::Edited => self.output.styled("+/-", Style::new().yellow()),
        };
        let blanks = "  ".repeat(depth);
        self.text.push_str(&format!("{blanks}{sign} {what}\n"));
    }

    fn group(&mut self, group: &GroupDiff) {
        let updates = group.updates.iter().filter(|(_, n)| **n > 0);
        let updates: Vec<_> = updates.map(|(what, n)| format!("{n} {}", self.update(what))).collect();
        let updates = if updates.is_empty() { String::new() } else { format!(" ({})", updates.join(", ")) };
        self.head(0, group.kind, &format!("group {:?}{updates}", group.name));
        self.fields(1, &group.fields);
        self.objects(1, &group.objects);
        for task in &group.tasks {
            self.task(task);
        }
    }

    fn task(&mut self, task: &TaskDiff) {
        if task.kind == DiffKind::None && !self.verbose {
            return;
        }
        self.head(1, task.kind, &format!("task {:?}{}", task.name, self.notes(&task.annotations)));
        self.fields(2, &task.fields);
        self.objects(2, &task.objects);
    }

    fn objects(&mut self, depth: usize, objects: &[ObjectDiff]) {
        let verbose = self.verbose;
        for object in objects.iter().filter(|object| verbose || object.kind != DiffKind::None) {
            self.head(depth, object.kind, &format!("{} {{", object.name));
            self.fields(depth + 1, &object.fields);
            self.objects(depth + 1, &object.objects);
            let blanks = "  ".repeat(depth);
            self.text.push_str(&format!("{blanks}    }}\n"));
        }
    }

    fn fields(&mut self, depth: usize, fields: &[FieldDiff]) {
        let shown: Vec<_> = fields.iter().filter(|field| self.verbose || field.kind != DiffKind::None).collect();
        let width = shown.iter().map(|field| field.name.chars().count()).max().unwrap_or(0);
        for field in shown {
            let value = match field.kind {
                DiffKind::None => format!("{:?}", field.new),
                DiffKind::Added => format!("{:?}", field.new),
                DiffKind::Deleted => format!("{:?}", field.old),
                DiffKind::Edited => format!("{:?} => {:?}", field.old, field.new),
            };
            let notes = self.notes(&field.annotations);
            self.head(depth, field.kind, &format!("{:<width$} = {value}{notes}", field.name));
        }
    }

    fn notes(&self, notes: &[String]) -> String {
        if notes.is_empty() {
            return String::new();
        }
        let notes: Vec<_> = notes.iter().map(|note| self.update(note)).collect();
        format!(" ({})", notes.join(", "))
    }

    /// What starts anything is green, what ends anything red, what touches what runs yellow.
    fn update(&self, what: &str) -> String {
        let style = match what.trim_start_matches("forces ") {
            "create" => Style::new().green(),
            "destroy" => Style::new().red(),
            "create/destroy update" | "migrate" => Style::new().yellow(),
            "in-place update" => Style::new().cyan(),
            _ => Style::new(),
        };
        self.output.styled(what, style)
    }
}
