//! From a question to its answer.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use moat_model::network::{Ceiling, Domain, NetworkSpec, Reason};

use super::names::{Found, Zone};
use super::permission::{may_ask, rules_naming};
use super::pin::{PIN_EXTRA, Pinner, Remembered};
use super::reply::{Cache, Reply, address_of};
use super::shares::Shares;
use super::upstream::{Silence, Upstreams};
use super::wire::{Answer, Question};
use crate::table::{Attached, Table};

/// How long our own names are remembered by whoever asked: sandboxes come and go.
const TTL_OURS: u32 = 5;

/// Everything an answer is made of.
#[derive(Debug)]
pub(super) struct Core {
    pub table: Table,
    pub zone: Zone,
    pub ceiling: Ceiling,
    pub gateway: Ipv4Addr,
    pub upstreams: Upstreams,
    pub pinner: Arc<dyn Pinner>,
    pub cache: Cache,
    pub shares: Shares,
    pub remembered: Remembered,
    /// Which of several addresses comes first next.
    pub turn: AtomicUsize,
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Look {
    /// It is known.
    Said(Answer),
    /// It is known, and may be said once the rules know it too.
    Pin { answer: Answer, name: Domain },
    /// The outside may be asked.
    Ask { name: Domain },
}

/// Types that are asked for outside. Not `HTTPS` and `SVCB`, which carry addresses no rule would know; not `NULL`, `ANY` and
/// whatever else is used to carry traffic rather than to find somebody.
const ASKED: [RecordType; 13] = [
    RecordType::A,
    RecordType::CAA,
    RecordType::CNAME,
    RecordType::DNSKEY,
    RecordType::DS,
    RecordType::MX,
    RecordType::NAPTR,
    RecordType::NS,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::TLSA,
    RecordType::TXT,
];

impl Core {
    /// Answers what can be answered without waiting for anybody.
    pub fn look(&self, asker: &Attached, question: &Question) -> Look {
        let Some(name) = &question.name else { return Look::Said(Answer::empty(ResponseCode::NXDomain)) };
        let kind = question.kind();
        match self.zone.find(asker, name) {
            Found::Nobody => Look::Said(Answer::ours(ResponseCode::NXDomain, Vec::new())),
            Found::Bare => Look::Said(Answer::ours(ResponseCode::NoError, Vec::new())),
            Found::Pointer(target) => {
                let target = Name::from_ascii(format!("{target}.")).ok().filter(|_| kind == RecordType::PTR);
                let data = target.map(|target| RData::PTR(PTR(target)));
                Look::Said(Answer::ours(ResponseCode::NoError, data.map(|d| ours(question, d)).into_iter().collect()))
            }
            Found::Addresses(_) if kind != RecordType::A => Look::Said(Answer::ours(ResponseCode::NoError, Vec::new())),
            Found::Addresses(mut addresses) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
                addresses.rotate_left(turn);
                let records = addresses.into_iter().map(|a| ours(question, RData::A(a.into()))).collect();
                let answer = Answer::ours(ResponseCode::NoError, records);
                match Domain::parse(&self.zone.full(name)) {
                    Ok(name) if is_ruled(&asker.attachment.spec, &name) => Look::Pin { answer, name },
                    Ok(_) | Err(_) => Look::Said(answer),
                }
            }
            Found::Foreign => self.look_outside(asker, question, name),
        }
    }

    fn look_outside(&self, asker: &Attached, question: &Question, name: &str) -> Look {
        let refused = || Look::Said(Answer::empty(ResponseCode::NXDomain));
        // Not "refused": musl waits for another answer then, and programs take it for a passing trouble.
        let Ok(name) = Domain::parse(name) else { return refused() };
        if may_ask(&asker.attachment.spec, &self.ceiling, &name).is_err() {
            return refused();
        }
        let kind = question.kind();
        if !ASKED.contains(&kind) {
            return Look::Said(Answer::empty(ResponseCode::NoError));
        }
        if kind == RecordType::A && is_ruled(&asker.attachment.spec, &name) {
            return Look::Ask { name };
        }
        match self.cache.get(&asker.attachment.namespace, name.as_str(), kind, Instant::now()) {
            Some(reply) => Look::Said(self.told(question, reply).0),
            None => Look::Ask { name },
        }
    }

    /// Does what takes a while: asks the outside, tells the rules.
    pub async fn finish(&self, asker: &Attached, question: &Question, look: Look) -> Answer {
        let failed = || Answer::empty(ResponseCode::ServFail);
        let (answer, name) = match look {
            Look::Said(answer) => return answer,
            Look::Pin { answer, name } => (answer, name),
            Look::Ask { name } => match self.outside(asker, &name, question.kind()).await {
                Ok(reply) => (self.told(question, reply).0, name),
                Err(silence) => {
                    tracing::debug!(%silence, %name, sandbox = %asker.attachment.id, "a name was not answered");
                    return failed();
                }
            },
        };
        // The answer is for who asked, under the rules of then. If those changed meanwhile, it is to ask again.
        if self.table.at(asker.lease.slot).as_deref() != Some(asker) {
            return failed();
        }
        match self.pin(asker, &name, &answer).await {
            Ok(()) => answer,
            Err(error) => {
                tracing::warn!(error = error.chain(), %name, sandbox = %asker.attachment.id, "addresses were not pinned");
                failed()
            }
        }
    }

    async fn pin(&self, asker: &Attached, name: &Domain, answer: &Answer) -> moat_engine::Result<()> {
        let addresses: Vec<_> = answer.records.iter().filter_map(address_of).collect();
        let rules = rules_naming(&asker.attachment.spec, name);
        if addresses.is_empty() || rules.is_empty() {
            return Ok(());
        }
        let shortest = answer.records.iter().map(|r| r.ttl).min().unwrap_or(0);
        let ttl = Duration::from_secs(u64::from(shortest)) + PIN_EXTRA;
        self.pinner.pin(asker, &rules, &addresses, ttl).await?;
        self.remembered.put(asker, name, &addresses, ttl, Instant::now());
        Ok(())
    }

    async fn outside(&self, asker: &Attached, name: &Domain, kind: RecordType) -> Result<Reply, Silence> {
        let namespace = &asker.attachment.namespace;
        if let Some(reply) = self.cache.get(namespace, name.as_str(), kind, Instant::now()) {
            return Ok(reply);
        }
        let Ok(asked) = Name::from_ascii(format!("{name}.")) else { return Err(Silence::Unanswered) };
        let reply = self.upstreams.ask(&asked, kind).await?;
        self.cache.put(namespace, name.as_str(), kind, &reply, Instant::now());
        Ok(reply)
    }

    /// What of a reply may be said, and which addresses may not: those that nobody reaches anyway. Names of the outside that
    /// lead inside are how a browser or a server is made to talk to its own network.
    fn told(&self, question: &Question, mut reply: Reply) -> (Answer, Vec<Ipv4Addr>) {
        let (all, asked) = (reply.addresses(), &question.query.name);
        reply.records.retain(|record| address_of(record).is_none_or(|address| self.may_tell(address)));
        for record in reply.records.iter_mut().filter(|record| record.name == *asked) {
            record.name = asked.clone();
        }
        let withheld = all.into_iter().filter(|address| !self.may_tell(*address)).collect();
        let code = if reply.exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        (Answer { code, ours: false, records: reply.records, nothing: reply.nothing }, withheld)
    }

    fn may_tell(&self, address: Ipv4Addr) -> bool {
        address != self.gateway && self.ceiling.allows(address) && !self.zone.holds(address)
    }
}

/// Some rule names the name.
fn is_ruled(spec: &NetworkSpec, name: &Domain) -> bool {
    !rules_naming(spec, name).is_empty()
}

fn ours(question: &Question, data: RData) -> Record {
    Record::from_rdata(question.query.name.clone(), TTL_OURS, data)
}

/// What a sandbox would learn if it asked for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The name as rules see it: what a flow to one of the addresses goes by.
    pub name: Domain,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a name that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has these addresses; none: it exists without.
    Addresses {
        /// Those it is told.
        told: Vec<Ipv4Addr>,
        /// Those it is not told, for it could not reach them.
        withheld: Vec<Ipv4Addr>,
    },
    /// Nobody has it.
    Nobody,
    /// It is not asked for, by this rule.
    Refused(Reason),
    /// The outside did not answer.
    Failed,
}

impl Core {
    /// What a sandbox would learn. Tells the rules nothing.
    pub async fn lookup(&self, asker: &Attached, name: &Domain) -> Lookup {
        let full = Domain::parse(&self.zone.full(name.as_str())).unwrap_or_else(|_| name.clone());
        let outcome = match self.zone.find(asker, name.as_str()) {
            Found::Addresses(told) => Outcome::Addresses { told, withheld: Vec::new() },
            Found::Bare | Found::Pointer(_) => Outcome::Addresses { told: Vec::new(), withheld: Vec::new() },
            Found::Nobody => Outcome::Nobody,
            Found::Foreign => match may_ask(&asker.attachment.spec, &self.ceiling, name) {
                Ok(()) => self.lookup_outside(asker, name).await,
                Err(reason) => Outcome::Refused(reason),
            },
        };
        Lookup { name: full, outcome }
    }

    async fn lookup_outside(&self, asker: &Attached, name: &Domain) -> Outcome {
        // A dry run counts like a question of the sandbox: it is one.
        let Some(_place) = self.shares.wait(asker.lease.slot) else { return Outcome::Failed };
        match self.outside(asker, name, RecordType::A).await {
            Ok(reply) if !reply.exists => Outcome::Nobody,
            Ok(reply) => {
                let (told, withheld) = reply.addresses().into_iter().partition(|address| self.may_tell(*address));
                Outcome::Addresses { told, withheld }
            }
            Err(_) => Outcome::Failed,
        }
    }
}
