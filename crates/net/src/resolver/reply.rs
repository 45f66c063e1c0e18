//! What the outside answered, reduced to what was asked; and remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use moat_model::Namespace;

/// Aliases followed: more is a loop, or somebody who wants work done.
const ALIASES_MAX: usize = 16;
/// Records of one answer.
const RECORDS_MAX: usize = 256;
/// How long anything is taken for true: with what pins last longer, an hour.
const TTL_MAX: u32 = 3570;
/// How long it is taken for true that there is nothing.
const NOTHING_MAX: u32 = 60;
/// Answers remembered, and the length of those that are: 8 MiB in all at most.
const CACHED_MAX: usize = 4096;
const CACHED_BYTES_MAX: usize = 2048;

/// An answer from the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// Whether the name exists.
    pub exists: bool,
    /// Aliases in order, then what was asked for; all with the same time to live.
    pub records: Vec<Record>,
    /// Who says that there is nothing.
    pub nothing: Option<Record>,
    /// How long it may be remembered, in seconds.
    pub ttl: u32,
}

impl Reply {
    /// Takes from a message what belongs to the question: aliases from the name asked for, and records of the type at their
    /// end. Whatever else a server put there was not asked for.
    pub fn from_message(message: &Message, name: &Name, kind: RecordType) -> Self {
        let (mut records, mut at) = (Vec::new(), name.clone());
        let owned = |owner: &Name, kind: RecordType| {
            let owner = owner.clone();
            let fits = move |r: &&Record| r.name == owner && r.record_type() == kind && r.dns_class == DNSClass::IN;
            message.answers.iter().filter(fits)
        };
        while kind != RecordType::CNAME && records.len() < ALIASES_MAX {
            let Some(alias) = owned(&at, RecordType::CNAME).next() else { break };
            let RData::CNAME(target) = &alias.data else { break };
            at = target.0.clone();
            records.push(alias.clone());
        }
        let aliases = records.len();
        records.extend(owned(&at, kind).take(RECORDS_MAX).cloned());
        let found = records.len() > aliases;
        let soa = message.authorities.iter().find(|r| r.record_type() == RecordType::SOA);
        let nothing = soa.filter(|_| !found).cloned();
        let ttl = if found {
            records.iter().map(|r| r.ttl).min().unwrap_or(0).min(TTL_MAX)
        } else {
            nothing.as_ref().map_or(0, nothing_for)
        };
        let exists = message.metadata.response_code == ResponseCode::NoError;
        Self { exists, records, nothing, ttl }.lasting(ttl)
    }

    /// The same, to be remembered this long.
    pub fn lasting(mut self, ttl: u32) -> Self {
        self.ttl = ttl;
        self.records.iter_mut().chain(self.nothing.iter_mut()).for_each(|r| r.ttl = ttl);
        self
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.records.iter().filter_map(address_of).collect()
    }
}

/// The address a record gives.
pub(super) fn address_of(record: &Record) -> Option<Ipv4Addr> {
    match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    }
}

fn nothing_for(soa: &Record) -> u32 {
    match &soa.data {
        RData::SOA(data) => soa.ttl.min(data.minimum).min(NOTHING_MAX),
        _ => 0,
    }
}

/// Answers by namespace: what one tenant asked is not told to another by how fast an answer comes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    inner: Mutex<Held>,
}

type Key = (Namespace, String, RecordType);

#[derive(Debug, Default)]
struct Held {
    by: HashMap<Key, (Reply, Instant)>,
    order: VecDeque<Key>,
}

impl Cache {
    /// What is remembered, with the time that is left.
    pub fn get(&self, namespace: &Namespace, name: &str, kind: RecordType, now: Instant) -> Option<Reply> {
        let held = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, until) = held.by.get(&(namespace.clone(), name.to_owned(), kind))?;
        let left = u32::try_from(until.saturating_duration_since(now).as_secs()).unwrap_or(0);
        (left > 0).then(|| reply.clone().lasting(left))
    }

    /// Remembers an answer, in place of the oldest if there is no room.
    pub fn put(&self, namespace: &Namespace, name: &str, kind: RecordType, reply: &Reply, now: Instant) {
        // Roughly: an address and its name. Long answers are rare and cost a question each.
        let size = reply.records.len().saturating_mul(64).saturating_add(name.len());
        if reply.ttl == 0 || size > CACHED_BYTES_MAX {
            return;
        }
        let key = (namespace.clone(), name.to_owned(), kind);
        let until = now + Duration::from_secs(u64::from(reply.ttl));
        let mut held = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if held.by.insert(key.clone(), (reply.clone(), until)).is_none() {
            held.order.push_back(key);
        }
        while held.order.len() > CACHED_MAX {
            let Some(oldest) = held.order.pop_front() else { break };
            held.by.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{CNAME, SOA};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(Ipv4Addr::new(8, 8, 8, last).into()))
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn reply(answers: Vec<Record>) -> Reply {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_answers(answers);
        Reply::from_message(&message, &name("a.org."), RecordType::A)
    }

    #[test]
    fn only_what_was_asked_is_taken() {
        let got = reply(vec![
            a("evil.org.", 9, 1),
            a("b.org.", 300, 2),
            alias("a.org.", 99_999, "B.org."),
            a("b.org.", 7000, 3),
            alias("b.net.", 5, "c.net."),
        ]);
        assert_eq!(got.addresses(), [Ipv4Addr::new(8, 8, 8, 2), Ipv4Addr::new(8, 8, 8, 3)]);
        assert_eq!((got.records.len(), got.ttl), (3, 300));
        assert!(got.records.iter().all(|r| r.ttl == 300));
    }

    #[test]
    fn aliases_in_a_ring_end() {
        let got = reply(vec![alias("a.org.", 5, "b.org."), alias("b.org.", 5, "a.org.")]);
        assert_eq!((got.records.len(), got.addresses().len()), (ALIASES_MAX, 0));
    }

    #[test]
    fn nothing_is_remembered_as_long_as_its_zone_says() {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(name("ns.org."), name("root.org."), 1, 1, 1, 1, 30);
        message.add_authority(Record::from_rdata(name("org."), 900, RData::SOA(soa)));
        let got = Reply::from_message(&message, &name("a.org."), RecordType::A);
        assert_eq!((got.exists, got.ttl, got.nothing.unwrap().ttl), (false, 30, 30));
    }

    #[test]
    fn what_is_remembered_grows_old_and_is_one_tenants() {
        let (cache, start) = (Cache::default(), Instant::now());
        let (red, blue) = (Namespace::parse("red").unwrap(), Namespace::parse("blue").unwrap());
        cache.put(&red, "a.org", RecordType::A, &reply(vec![a("a.org.", 10, 1)]), start);
        let left = |of: &Namespace, after| {
            cache.get(of, "a.org", RecordType::A, start + Duration::from_secs(after)).map(|r| r.ttl)
        };
        assert_eq!((left(&red, 0), left(&red, 4), left(&red, 10)), (Some(10), Some(6), None));
        assert_eq!(left(&blue, 0), None);
        for n in 0..=CACHED_MAX {
            cache.put(&red, &format!("{n}.org"), RecordType::A, &reply(vec![a("a.org.", 10, 1)]), start);
        }
        let held = cache.inner.lock().unwrap();
        assert_eq!((held.by.len(), held.order.len()), (CACHED_MAX, CACHED_MAX));
        assert!(!held.by.contains_key(&(red, "a.org".to_owned(), RecordType::A)));
    }
}
