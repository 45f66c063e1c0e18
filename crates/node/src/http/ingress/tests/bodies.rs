//! Bodies and streams, both ways.

use super::*;

fn chunked(pieces: &[&str], trailers: &str) -> String {
    let body: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
    format!("{body}0\r\n{trailers}\r\n")
}

#[tokio::test]
async fn bodies_arrive_whole() {
    let lab = Lab::new().await;
    let large = "x".repeat(3 << 20) + "the end!";
    let length = |body: &str| format!("Content-Length: {}\r\n", body.len());
    let pieces = "Transfer-Encoding: chunked\r\n";
    for (method, lines, body, told) in [
        ("POST", length("hello"), "hello".to_owned(), "5 hello "),
        ("POST", length(""), String::new(), "0  "),
        ("POST", String::new(), String::new(), "0  "),
        ("PUT", pieces.to_owned(), chunked(&["hello", " ", "world"], ""), "11 lo world "),
        // A GET with a body is rare, but it is one.
        ("GET", pieces.to_owned(), chunked(&["hello"], ""), "5 hello "),
        ("GET", length("hello"), "hello".to_owned(), "5 hello "),
        ("POST", format!("{pieces}Trailer: X-Sum\r\n"), chunked(&["hello"], "X-Sum: 5\r\n"), "5 hello x-sum: 5"),
        ("POST", length(&large), large.clone(), "3145736 the end! "),
    ] {
        let said = lab.raw(lab.head(method, 80, "/body", &lines) + &body).await;
        assert_eq!((said.status, said.body.as_str()), (200, told), "{method} {lines}");
    }
    lab.quiet().await;
}

#[tokio::test]
async fn answers_arrive_whole() {
    let lab = Lab::new().await;
    let said = lab.raw(lab.head("GET", 80, "/chunks", "TE: trailers\r\n")).await;
    assert!(said.body.contains("5\r\nhello\r\n") && said.body.ends_with("0\r\nx-sum: 11\r\n\r\n"), "{said:?}");
    assert_eq!((said.all("transfer-encoding"), said.all("set-cookie")), (vec!["chunked"], vec!["a=1"]));
    // To the eyes of HTTP/1.0, bodies end with the connection.
    let head = lab.head("GET", 80, "/chunks", "").replace("HTTP/1.1", "HTTP/1.0");
    let said = lab.raw(head).await;
    assert_eq!((said.body.as_str(), said.all("transfer-encoding").len()), ("hello world", 0), "{said:?}");
    for (method, status, body) in
        [("GET", 200, "12345"), ("HEAD", 200, ""), ("GET", 304, ""), ("GET", 404, "12345"), ("GET", 500, "12345")]
    {
        let said = lab.raw(lab.head(method, 80, &format!("/status?{status}"), "")).await;
        assert_eq!((said.status, said.body.as_str()), (status, body), "{method} {said:?}");
        let length = if status == 304 { vec![] } else { vec!["5"] };
        assert_eq!(said.all("content-length"), length, "{method} {said:?}");
        assert!(said.all("moat-error").is_empty());
    }
    let none = "485454502f312e3120323034204e6f0d0a0d0a";
    let said = lab.get(80, &format!("/raw?{none}")).await;
    assert_eq!((said.status, said.body.as_str(), said.all("content-length").len()), (204, "", 0));
    lab.quiet().await;
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    for round in 0..3 {
        let head = lab.head("GET", 80, &format!("/echo?{round}"), "").replace("Connection: close\r\n", "");
        stream.write_all(head.as_bytes()).await.unwrap();
        let said = until(&mut stream, "x-forwarded-proto: http\r\n\r\n").await;
        assert!(said.contains(&format!("GET /echo?{round} HTTP/1.1\r\n")), "{said}");
    }
}

#[tokio::test]
async fn events_are_not_held_back_and_a_hangup_is_noticed() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("GET", 80, "/sse", "").as_bytes()).await.unwrap();
    let head = until(&mut stream, "data: one\n\n").await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert_eq!(lab.doors.open.load(Ordering::SeqCst), 1);
    drop(stream);
    lab.quiet().await;
}

#[tokio::test]
async fn a_client_that_goes_before_the_answer_is_noticed() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("GET", 80, "/silent", "").as_bytes()).await.unwrap();
    let inside = async || (lab.doors.open.load(Ordering::SeqCst) == 1).then_some(());
    wait_until(SOON, "the request is inside", inside).await.unwrap();
    drop(stream);
    lab.quiet().await;
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    let head = lab.head("POST", 80, "/copy", "Transfer-Encoding: chunked\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    until(&mut stream, "\r\n\r\n").await;
    for piece in ["one", "two", "three"] {
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        until(&mut stream, &format!("{piece}\r\n")).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(until(&mut stream, "0\r\n\r\n").await, "0\r\n\r\n");
    lab.quiet().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_answered_by_the_program() {
    let lab = Lab::new().await;
    let lines = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("POST", 80, "/continue", lines).as_bytes()).await.unwrap();
    assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let said = Said::rest_of(stream).await;
    assert_eq!((said.status, said.body.as_str()), (200, "5 hello "));
    // One that refuses is heard before a byte of the body is asked for.
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("POST", 80, "/refuse", lines).as_bytes()).await.unwrap();
    let said = Said::rest_of(stream).await;
    assert_eq!((said.status, said.body.as_str()), (417, "no"), "{said:?}");
    // One that knows nothing of it gets the body a little later.
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("POST", 80, "/body", lines).as_bytes()).await.unwrap();
    until(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(Said::rest_of(stream).await.body, "5 hello ");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("GET", DYING, "/", "").as_bytes()).await.unwrap();
    let said = Said::rest_of(stream).await;
    assert_eq!((said.status, said.all("content-length")), (200, vec!["100"]), "{said:?}");
    assert!(said.body.len() < 100, "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_beside_some_that_do_not_read() {
    let lab = Arc::new(Lab::new().await);
    let mut lazy = Vec::new();
    for path in ["/flood", "/flood", "/unread"] {
        let mut stream = lab.connect().await;
        let lines = "Content-Length: 1000000000\r\n";
        stream.write_all(lab.head("POST", 80, path, lines).as_bytes()).await.unwrap();
        lazy.push(tokio::spawn(async move {
            // Far more than fits into all the buffers on the way.
            let _ = stream.write_all(&vec![b'x'; 256 << 20]).await;
            stream
        }));
    }
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let lab = Arc::clone(&lab);
            tokio::spawn(async move {
                let said = lab.raw(lab.head("POST", 80, "/body", "Content-Length: 3\r\n") + &format!("{n:03}")).await;
                assert_eq!((said.status, said.body), (200, format!("3 {n:03} ")));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(lazy.iter().all(|task| !task.is_finished()), "somebody took what nobody reads");
    lazy.iter().for_each(tokio::task::JoinHandle::abort);
}
