//! Questions and answers as bytes. What comes in is anybody's.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

/// Length of a header, which is all that a message that cannot be read is answered with.
const HEADER: usize = 12;
/// What is sent over UDP at most, whatever the other side would take: it passes every link whole.
pub(super) const DATAGRAM_MAX: u16 = 1232;
/// What everybody takes who does not say more.
const DATAGRAM_PLAIN: u16 = 512;
/// Records beside the question: the one of EDNS, and room for cookies' like.
const EXTRAS_MAX: u16 = 4;
/// Response code of an EDNS version nobody speaks; its upper bits stand in the record of EDNS.
const VERSION: ResponseCode = ResponseCode::BADVERS;

/// One question.
#[derive(Debug, Clone)]
pub(super) struct Question {
    id: u16,
    recursion: bool,
    unchecked: bool,
    /// As it was asked: upper case and all.
    pub query: Query,
    /// The name in lower case without the last dot; none if it has what no host name has.
    pub name: Option<String>,
    /// How long a datagram may be for the asker; none: no EDNS spoken.
    payload: Option<u16>,
}

impl Question {
    /// The type asked for.
    pub fn kind(&self) -> RecordType {
        self.query.query_type
    }

    /// Most bytes of an answer over UDP.
    pub fn datagram(&self) -> usize {
        usize::from(self.payload.unwrap_or(DATAGRAM_PLAIN).clamp(DATAGRAM_PLAIN, DATAGRAM_MAX))
    }
}

/// What somebody sent.
#[derive(Debug)]
pub(super) enum Reading {
    /// A question.
    Question(Question),
    /// No question we answer; this says so.
    Refusal(Vec<u8>),
    /// Nothing that wants an answer.
    Nothing,
}

/// Reads a message. Looks at the counts first, so that a few bytes cannot ask for much work.
pub(super) fn read(bytes: &[u8]) -> Reading {
    let Some(Ok(header)) = bytes.get(..HEADER).map(<[u8; HEADER]>::try_from) else { return Reading::Nothing };
    let [_, _, flags, _, counts @ ..] = header;
    if flags & 0x80 != 0 {
        return Reading::Nothing; // an answer: whoever answers those can be made to talk to itself
    }
    if flags & 0x78 != 0 {
        return refusal(&header, ResponseCode::NotImp);
    }
    let [q1, q2, an1, an2, ns1, ns2, ar1, ar2] = counts;
    let extras = u16::from_be_bytes([ar1, ar2]);
    if [q1, q2] != [0, 1] || [an1, an2, ns1, ns2] != [0; 4] || extras > EXTRAS_MAX {
        return refusal(&header, ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return refusal(&header, ResponseCode::FormErr) };
    let Some(query) = message.queries.pop() else { return refusal(&header, ResponseCode::FormErr) };
    let question = Question {
        id: message.metadata.id,
        recursion: message.metadata.recursion_desired,
        unchecked: message.metadata.checking_disabled,
        name: text_of(&query.name),
        query,
        payload: message.edns.as_ref().map(Edns::max_payload),
    };
    if message.edns.is_some_and(|edns| edns.version() > 0) {
        return said(&question, VERSION);
    }
    match question.query.query_class {
        DNSClass::IN => Reading::Question(question),
        _ => said(&question, ResponseCode::Refused),
    }
}

fn said(question: &Question, code: ResponseCode) -> Reading {
    write(question, &Answer::empty(code), question.datagram()).map_or(Reading::Nothing, Reading::Refusal)
}

fn refusal(header: &[u8; HEADER], code: ResponseCode) -> Reading {
    let [id1, id2, flags, ..] = *header;
    // Same id, operation and wish for recursion; an answer; nothing counted.
    Reading::Refusal(vec![id1, id2, 0x80 | (flags & 0x79), 0x80 | code.low(), 0, 0, 0, 0, 0, 0, 0, 0])
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// How it went.
    pub code: ResponseCode,
    /// It is our own name.
    pub ours: bool,
    /// What was asked for, aliases first.
    pub records: Vec<Record>,
    /// Says how long it may be remembered that there is nothing.
    pub nothing: Option<Record>,
}

impl Answer {
    /// Nothing but a code.
    pub fn empty(code: ResponseCode) -> Self {
        Self { code, ours: false, records: Vec::new(), nothing: None }
    }

    /// About a name of ours.
    pub fn ours(code: ResponseCode, records: Vec<Record>) -> Self {
        Self { code, ours: true, records, nothing: None }
    }
}

/// Writes an answer of at most `limit` bytes. If not all records have room, as many as do are sent and the answer is marked:
/// who can asks again over TCP, and who cannot has some.
pub(super) fn write(question: &Question, answer: &Answer, limit: usize) -> Option<Vec<u8>> {
    let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = question.recursion;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = question.unchecked;
    message.metadata.authoritative = answer.ours;
    message.metadata.response_code = answer.code;
    message.add_query(question.query.clone());
    message.add_answers(answer.records.iter().cloned());
    message.add_authorities(answer.nothing.iter().cloned());
    if question.payload.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX).set_version(0);
        message.set_edns(edns);
    }
    loop {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        if message.answers.is_empty() && message.authorities.is_empty() {
            return None;
        }
        message.metadata.truncation = true;
        message.authorities.clear();
        // All records of one answer are of about one size; one less than the share that fits, and again if that was wrong.
        let fits = message.answers.len().saturating_mul(limit) / bytes.len();
        message.answers.truncate(fits.min(message.answers.len().saturating_sub(1)));
    }
}

/// A name as text: lower case, no last dot. None if a label has what no host name has.
pub(super) fn text_of(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            let fits = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            text.push(fits.then(|| char::from(byte.to_ascii_lowercase()))?);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::RData;
    use std::net::Ipv4Addr;

    fn asked(name: &str) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    fn question(bytes: &[u8]) -> Question {
        match read(bytes) {
            Reading::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn code(bytes: &[u8]) -> Option<u8> {
        match read(bytes) {
            Reading::Refusal(reply) => Some(reply[3] & 0xf),
            Reading::Question(_) => Some(0),
            Reading::Nothing => None,
        }
    }

    #[test]
    fn a_question_keeps_its_case_and_is_looked_up_without() {
        let question = question(&asked("WeB.moat.INTERNAL."));
        assert_eq!(question.name.as_deref(), Some("web.moat.internal"));
        let reply = write(&question, &Answer::empty(ResponseCode::NXDomain), 512).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::NXDomain));
        assert_eq!(reply.queries[0].name.to_ascii(), "WeB.moat.INTERNAL.");
    }

    #[test]
    fn what_is_no_question_is_refused_or_dropped() {
        let good = asked("a.b.");
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(code(&good), Some(0));
        assert_eq!(code(&good[..11]), None, "no header");
        assert_eq!(code(&changed(2, 0x81)), None, "an answer");
        assert_eq!(code(&changed(2, 0x28)), Some(4), "an update");
        assert_eq!(code(&changed(5, 0)), Some(1), "no question");
        assert_eq!(code(&changed(4, 255)), Some(1), "65281 questions");
        assert_eq!(code(&changed(7, 1)), Some(1), "a question with an answer");
        assert_eq!(code(&changed(10, 255)), Some(1), "65280 extras");
        assert_eq!(code(&good[..good.len() - 3]), Some(1), "cut off");
        let mut looping = good.clone();
        looping.splice(12.., [0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(code(&looping), Some(1), "a name that points at itself");
        let class = good.len() - 1;
        assert_eq!(code(&changed(class, 3)), Some(5), "class CHAOS");
    }

    #[test]
    fn what_has_no_room_is_cut_and_said_to_be() {
        let question = question(&asked("many.moat.internal."));
        let record = |n: u32| Record::from_rdata(question.query.name.clone(), 5, RData::A(Ipv4Addr::from(n).into()));
        let answer = Answer::ours(ResponseCode::NoError, (0..200).map(record).collect());
        let short = write(&question, &answer, question.datagram()).unwrap();
        assert!(short.len() <= 512);
        let read = Message::from_vec(&short).unwrap();
        assert!(read.metadata.truncation && read.answers.len() > 20, "{}", read.answers.len());
        let long = Message::from_vec(&write(&question, &answer, 65_535).unwrap()).unwrap();
        assert!(!long.metadata.truncation && long.answers.len() == 200);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_bytes_behind_a_good_header_are_survived(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), extras in 0u8..=4,
        ) {
            let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, extras];
            message.extend(bytes);
            if let Reading::Question(question) = read(&message) {
                let reply = write(&question, &Answer::empty(ResponseCode::NXDomain), question.datagram());
                proptest::prop_assert!(reply.is_some_and(|r| r.len() <= 1232));
            }
        }
    }
}
