//! A name server of the outside, as good or bad as a test needs it; and what the resolver makes of each.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use moat_model::network::NetworkMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::upstream::Patience;
use super::stage::{self, Stage, addresses, attached};

const TTL: u32 = 300;

/// What it does with a question: nothing, one datagram or several.
type Manner = Arc<dyn Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync>;

pub struct Outside {
    address: SocketAddr,
    asked: watch::Receiver<usize>,
    open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Outside {
    pub async fn answering(all: &[Ipv4Addr]) -> Self {
        let all = all.to_vec();
        Self::with(true, Arc::new(move |asked, _| vec![answer(asked, &all).to_vec().unwrap()])).await
    }

    /// Answers only once it is released.
    pub async fn holding(all: &[Ipv4Addr]) -> Self {
        let all = all.to_vec();
        Self::with(false, Arc::new(move |asked, _| vec![answer(asked, &all).to_vec().unwrap()])).await
    }

    pub async fn with(open: bool, manner: Manner) -> Self {
        let (datagrams, streams) = loop {
            let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(streams) = TcpListener::bind(datagrams.local_addr().unwrap()).await {
                break (datagrams, streams);
            }
        };
        let address = datagrams.local_addr().unwrap();
        let (count, asked) = watch::channel(0);
        let (open, opened) = watch::channel(open);
        let mut tasks = JoinSet::new();
        tasks.spawn(udp(Arc::new(datagrams), manner.clone(), count, opened));
        tasks.spawn(tcp(streams, manner));
        Self { address, asked, open, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions that came as datagrams.
    pub fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    pub async fn wait_for(&self, count: usize) {
        let mut asked = self.asked.clone();
        let reached = asked.wait_for(|n| *n >= count);
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("that many questions").unwrap();
    }

    pub fn release(&self) {
        self.open.send(true).unwrap();
    }
}

async fn udp(socket: Arc<UdpSocket>, manner: Manner, count: watch::Sender<usize>, open: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    loop {
        let mut buffer = vec![0; 4096];
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        count.send_modify(|n| *n += 1);
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        let (socket, manner, mut open) = (socket.clone(), manner.clone(), open.clone());
        tasks.spawn(async move {
            open.wait_for(|open| *open).await.unwrap();
            for reply in manner(&asked, false) {
                let _ = socket.send_to(&reply, from).await;
            }
        });
    }
}

async fn tcp(listener: TcpListener, manner: Manner) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let Ok(length) = stream.read_u16().await else { continue };
        let mut buffer = vec![0; usize::from(length)];
        let Ok(_) = stream.read_exact(&mut buffer).await else { continue };
        for reply in manner(&Message::from_vec(&buffer).unwrap(), true) {
            let length = u16::try_from(reply.len()).unwrap();
            let _ = stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat()).await;
        }
    }
}

fn empty(asked: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.add_queries(asked.queries.clone());
    message
}

fn answer(asked: &Message, all: &[Ipv4Addr]) -> Message {
    let mut message = empty(asked, ResponseCode::NoError);
    let name = &asked.queries[0].name;
    message.add_answers(all.iter().map(|a| Record::from_rdata(name.clone(), TTL, RData::A((*a).into()))));
    message
}

fn manner(f: impl Fn(&Message, bool) -> Vec<Message> + Send + Sync + 'static) -> Manner {
    Arc::new(move |asked, stream| f(asked, stream).iter().map(|m| m.to_vec().unwrap()).collect())
}

async fn resolved(outside: &[&Outside]) -> (Message, Stage) {
    let asker = attached(1, "red", None, NetworkMode::Internet);
    let upstreams: Vec<_> = outside.iter().map(|o| o.address()).collect();
    let stage = Stage::with(&[&asker], &upstreams).await;
    (stage.ask(&asker, "name.test.", RecordType::A).await, stage)
}

#[tokio::test]
async fn aliases_are_followed_and_said() {
    let target = Name::from_ascii("elsewhere.test.").unwrap();
    let manner = manner(move |asked, _| {
        let mut message = empty(asked, ResponseCode::NoError);
        let name = asked.queries[0].name.clone();
        message.add_answer(Record::from_rdata(name, 9, RData::CNAME(CNAME(target.clone()))));
        message.add_answer(Record::from_rdata(target.clone(), TTL, RData::A(super::PUBLIC.into())));
        message.add_additional(Record::from_rdata(target.clone(), TTL, RData::A(Ipv4Addr::new(6, 6, 6, 6).into())));
        vec![message]
    });
    let outside = Outside::with(true, manner).await;
    let (got, _stage) = resolved(&[&outside]).await;
    assert_eq!((addresses(&got), got.answers.len(), got.additionals.len()), (vec![super::PUBLIC], 2, 0));
    assert!(got.answers.iter().all(|r| r.ttl == 9));
}

#[tokio::test]
async fn what_is_cut_is_asked_for_over_tcp_and_cut_again_for_who_has_no_room() {
    let all: Vec<_> = (0..200u32).map(|n| Ipv4Addr::from(0x0808_0000 + n)).collect();
    let manner = manner(move |asked, stream| {
        let mut message = answer(asked, if stream { &all } else { &all[..3] });
        message.metadata.truncation = !stream;
        vec![message]
    });
    let outside = Outside::with(true, manner).await;
    let (got, stage) = resolved(&[&outside]).await;
    assert!(got.metadata.truncation && addresses(&got).len() > 20, "{}", addresses(&got).len());
    let asker = attached(1, "red", None, NetworkMode::Internet);
    let got = stage.ask_tcp(&asker, "name.test.", RecordType::A).await;
    assert_eq!((got.metadata.truncation, addresses(&got).len()), (false, 200));
    for (payload, most) in [(1232, 1232), (65_535, 1232), (0, 512)] {
        let socket = stage.socket(asker.lease.address).await;
        socket.send(&stage::question_with_edns("name.test.", RecordType::A, payload)).await.unwrap();
        let got = stage::receive(&socket).await;
        let length = got.to_vec().unwrap().len();
        assert!(got.edns.is_some() && got.metadata.truncation && length <= most, "{payload}: {length}");
    }
}

#[tokio::test]
async fn a_server_that_is_of_no_use_is_passed_over() {
    let good = Outside::answering(&[super::PUBLIC]).await;
    let failing = Outside::with(true, manner(|asked, _| vec![empty(asked, ResponseCode::ServFail)])).await;
    let garbage = Outside::with(true, Arc::new(|_, _| vec![vec![0xff; 40]; 32])).await;
    let dead = "127.77.0.254:9".parse().unwrap();
    for bad in [failing.address(), garbage.address(), dead] {
        let asker = attached(1, "red", None, NetworkMode::Internet);
        let stage = Stage::with(&[&asker], &[bad, good.address()]).await;
        let got = stage.ask(&asker, "name.test.", RecordType::A).await;
        assert_eq!(addresses(&got), [super::PUBLIC], "{bad}");
        let before = (failing.asked(), garbage.asked());
        assert_eq!(addresses(&stage.ask(&asker, "other.test.", RecordType::A).await), [super::PUBLIC]);
        assert_eq!((failing.asked(), garbage.asked()), before, "the good one is asked first now");
    }
    let (got, _stage) = resolved(&[&failing]).await;
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_server_that_is_silent_is_passed_over() {
    let good = Outside::answering(&[super::PUBLIC]).await;
    let silent = Outside::with(true, manner(|_, _| Vec::new())).await;
    let asker = attached(1, "red", None, NetworkMode::Internet);
    // Short, so that the test is; many, so that a slow machine has its answer at some time.
    let patience = Patience { each: vec![Duration::from_secs(1); 60], all: stage::DEADLINE };
    let stage = Stage::patient(&[&asker], &[silent.address(), good.address()], patience).await;
    assert_eq!(addresses(&stage.ask(&asker, "name.test.", RecordType::A).await), [super::PUBLIC]);
    assert!(silent.asked() > 0);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let manner = manner(|asked, _| match asked.edns {
        Some(_) => vec![empty(asked, ResponseCode::FormErr)],
        None => vec![answer(asked, &[super::PUBLIC])],
    });
    let outside = Outside::with(true, manner).await;
    let (got, _stage) = resolved(&[&outside]).await;
    assert_eq!(addresses(&got), [super::PUBLIC]);
}

#[tokio::test]
async fn answers_to_other_questions_are_not_ours() {
    let manner = manner(|asked, _| {
        let forged = [Ipv4Addr::new(6, 6, 6, 6)];
        let mut other_id = answer(asked, &forged);
        other_id.metadata.id = asked.metadata.id.wrapping_add(1);
        let mut other_name = answer(asked, &forged);
        other_name.queries[0].name = Name::from_ascii("other.test.").unwrap();
        let mut question = answer(asked, &forged);
        question.metadata.message_type = MessageType::Query;
        vec![other_id, other_name, question, answer(asked, &[super::PUBLIC])]
    });
    let outside = Outside::with(true, manner).await;
    let (got, _stage) = resolved(&[&outside]).await;
    assert_eq!(addresses(&got), [super::PUBLIC]);
}

#[tokio::test]
async fn a_name_nobody_has_is_nobodys() {
    let outside = Outside::with(true, manner(|asked, _| vec![empty(asked, ResponseCode::NXDomain)])).await;
    let (got, _stage) = resolved(&[&outside]).await;
    assert_eq!(got.metadata.response_code, ResponseCode::NXDomain);
}
