//! What differences would do to instances.

use moat_model::job::{DiffKind, GroupDiff, Job, JobDiff, TaskDiff, TaskGroup};

use crate::plan::{GroupSummary, Plan};
use crate::update::is_task_destructive;

const CREATE: &str = "forces create";
const DESTROY: &str = "forces destroy";
const REPLACE: &str = "forces create/destroy update";
const IN_PLACE: &str = "forces in-place update";

/// Writes down what the plan would do to groups, and what forces it.
pub(super) fn annotate(diff: &mut JobDiff, old: Option<&Job>, new: &Job, plan: &Plan) {
    for group in &mut diff.groups {
        let summary = plan.groups.get(&group.name).copied().unwrap_or_default();
        group.updates = counts(summary).filter(|(_, count)| *count > 0).map(|(name, n)| (name.to_owned(), n)).collect();
        let of = |job: Option<&'_ Job>| job.and_then(|job| job.group(&group.name)).cloned();
        annotate_group(group, of(old).as_ref(), of(Some(new)).as_ref());
    }
}

fn counts(summary: GroupSummary) -> impl Iterator<Item = (&'static str, u32)> {
    let GroupSummary { place, stop, migrate, in_place, destructive, canary, ignore } = summary;
    [
        ("create", place),
        ("destroy", stop),
        ("migrate", migrate),
        ("in-place update", in_place),
        ("create/destroy update", destructive),
        ("canary", canary),
        ("ignore", ignore),
    ]
    .into_iter()
}

fn annotate_group(group: &mut GroupDiff, old: Option<&TaskGroup>, new: Option<&TaskGroup>) {
    if let Some(count) = group.fields.iter_mut().find(|field| field.name == "count") {
        let number = |text: &str| text.parse::<u32>().unwrap_or(0);
        let grows = number(&count.new) > number(&count.old);
        count.annotations.push(if grows { CREATE } else { DESTROY }.to_owned());
    }
    let kind = group.kind;
    for task in &mut group.tasks {
        let note = note(task, kind, old, new);
        task.annotations.push(note.to_owned());
    }
}

fn note(task: &TaskDiff, group: DiffKind, old: Option<&TaskGroup>, new: Option<&TaskGroup>) -> &'static str {
    match group {
        DiffKind::Added => return CREATE,
        DiffKind::Deleted => return DESTROY,
        DiffKind::None | DiffKind::Edited => {}
    }
    let find = |group: Option<&'_ TaskGroup>| group.and_then(|group| group.task(&task.name)).cloned();
    match (find(old), find(new)) {
        (Some(old), Some(new)) if !is_task_destructive(&old, &new) => IN_PLACE,
        _ => REPLACE,
    }
}
