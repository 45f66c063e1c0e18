//! Attachments for tests.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use moat_engine::fabric::Attachment;
use moat_model::network::{HostLabel, NetworkLease, NetworkMode, NetworkSpec};
use moat_model::{Namespace, SandboxId, Timestamp};

use crate::table::Attached;

pub(super) fn attached(slot: u8, namespace: &str, name: Option<&str>, mode: NetworkMode) -> Attached {
    let name = name.map(|n| HostLabel::parse(n).unwrap());
    Attached {
        lease: NetworkLease { slot: u32::from(slot), address: Ipv4Addr::new(10, 100, 0, slot) },
        attachment: Attachment {
            id: SandboxId::from_parts(Timestamp::from_millis(1), [slot; 10]),
            namespace: Namespace::parse(namespace).unwrap(),
            labels: BTreeMap::new(),
            pooled: false,
            tap_owner: None,
            spec: NetworkSpec { name, ..NetworkSpec::new(mode) },
        },
    }
}

pub(super) fn label(mut of: Attached, key: &str, value: &str) -> Attached {
    of.attachment.labels.insert(key.to_owned(), value.to_owned());
    of
}
