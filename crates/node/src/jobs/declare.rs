//! Writing what is declared: the version before is put aside first, so that every version anything runs of can be read.

use moat_model::job::Job;
use moat_scheduler::JobKey;

use super::document::{JobRecord, Request, VersionRecord};
use super::keys::Key;
use super::replica::{Held, Replica};
use super::store::{Store, WriteError};
use crate::clock;

/// The record after this content was declared. The same content makes no new version.
pub fn next_version(old: &JobRecord, job: Job, request: Option<Request>) -> JobRecord {
    let now = clock::now();
    let same = old.job == job;
    JobRecord {
        version: if same { old.version } else { old.version + 1 },
        index: old.index + 1,
        stop: false,
        purge: false,
        no_shutdown_delay: false,
        submitted: if same { old.submitted } else { now },
        modified: now,
        request,
        job,
    }
}

/// The record of a job nobody declared before.
pub fn first_version(job: Job, request: Option<Request>) -> JobRecord {
    let now = clock::now();
    JobRecord {
        job,
        version: 0,
        index: 1,
        stop: false,
        purge: false,
        no_shutdown_delay: false,
        submitted: now,
        modified: now,
        request,
    }
}

/// Writes a record over the one that is known.
pub async fn put_record(
    store: &Store,
    replica: &Replica,
    key: &JobKey,
    over: Option<&Held<JobRecord>>,
    record: &JobRecord,
) -> Result<(), WriteError> {
    if let Some(old) = over
        && old.value.version != record.version
    {
        put_aside(store, replica, key, &old.value).await?;
    }
    let at = Key::Job(key.clone());
    let revision = match over {
        Some(held) => held.revision,
        // Nobody declared it as far as the caller knows: one that is there by now is somebody else's.
        None => replica.state().revision_of_none(&at).ok_or(WriteError::Conflict)?,
    };
    let value = serde_json::to_vec(record).unwrap_or_default();
    let revision = store.put(&at, value.clone(), Some(revision)).await?;
    replica.apply(&at, revision, Some(&value));
    Ok(())
}

async fn put_aside(store: &Store, replica: &Replica, key: &JobKey, old: &JobRecord) -> Result<(), WriteError> {
    let at = Key::Version(key.clone(), old.version);
    let value = serde_json::to_vec(&VersionRecord { job: old.job.clone(), submitted: old.submitted });
    let value = value.unwrap_or_default();
    let revision = store.put(&at, value.clone(), None).await?;
    replica.apply(&at, revision, Some(&value));
    Ok(())
}
