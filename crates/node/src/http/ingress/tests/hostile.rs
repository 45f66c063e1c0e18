//! Requests and answers that are not what they should be.

use super::*;

#[tokio::test]
async fn requests_that_mean_two_things() {
    let lab = Lab::new().await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let body = format!("0\r\n\r\n{inner}");
    let (length, large) = (body.len(), "1".repeat(40));
    let cases = [
        (format!("Content-Length: 4\r\nContent-Length: {length}\r\n"), 400),
        (format!("Content-Length: 4, {length}\r\n"), 400),
        ("Content-Length: +4\r\n".to_owned(), 400),
        ("Content-Length: -1\r\n".to_owned(), 400),
        ("Content-Length: 0x4\r\n".to_owned(), 400),
        (format!("Content-Length: {large}\r\n"), 400),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), 400),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), 400),
        ("Transfer-Encoding: gzip\r\n".to_owned(), 400),
        ("Transfer-Encoding : chunked\r\n".to_owned(), 400),
        (" Transfer-Encoding: chunked\r\n".to_owned(), 400),
        ("X: 1\r\n Transfer-Encoding: chunked\r\n".to_owned(), 400),
        ("X: 1\r\n\tfolded\r\n".to_owned(), 400),
        ("X: a\0b\r\n".to_owned(), 400),
        ("Host: other\r\n".to_owned(), 400),
    ];
    for (lines, status) in cases {
        let said = lab.raw(lab.head("POST", 80, "/body", &lines) + &body).await;
        assert_eq!(said.status, status, "{lines}: {said:?}");
    }
    // Both lengths: the chunks count, the rest is thrown away with the connection, and nobody inside sees two.
    for order in
        [["Content-Length: 4", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 4"]]
    {
        let lines = format!("{}\r\n{}\r\n", order[0], order[1]);
        let head = lab.head("POST", 80, "/echo", &lines).replace("Connection: close\r\n", "");
        let said = lab.raw(head + &body).await;
        assert_eq!((said.status, said.body.matches("HTTP/1.1").count()), (200, 1), "{said:?}");
        assert!(!said.body.contains("content-length") && !said.body.contains("smuggled"), "{said:?}");
    }
    for chunk in
        ["-5\r\nhello", "5;\n\r\nhello", "0x5\r\nhello", "5\r\nhelloX\r\n", "fffffffffffffffff\r\nhello", "\r\n"]
    {
        let said =
            lab.raw(lab.head("POST", 80, "/body", "Transfer-Encoding: chunked\r\n") + chunk + "\r\n0\r\n\r\n").await;
        assert!(said.status == 400 || said.status == 0, "{chunk:?}: {said:?}");
    }
    for start in
        ["GET /a b HTTP/1.1", "GET / HTTP/2.0", "GET / HTTP/1.1 x", "G\tT / HTTP/1.1", "GET http://[/ HTTP/1.1", "\0"]
    {
        let said = lab.raw(lab.head("GET", 80, "/", "").replace("GET / HTTP/1.1", start)).await;
        assert!(matches!(said.status, 400 | 0), "{start:?}: {said:?}");
    }
    lab.quiet().await;
}

#[tokio::test]
async fn a_header_cannot_name_those_that_say_where_a_request_comes_from() {
    let lab = Lab::new().await;
    let listed = "close, host, x-forwarded-for, x-forwarded-proto, x-own, content-length, moat-token";
    let head = lab.head("POST", 80, "/echo", "X-Own: 1\r\nContent-Length: 2\r\n").replace("close", listed);
    let said = lab.raw(head + "hi").await;
    assert_eq!(said.status, 200, "{said:?}");
    for line in
        [format!("host: {}", lab.host(80)), "x-forwarded-for: 127.0.0.1".to_owned(), "content-length: 2".to_owned()]
    {
        assert!(said.echoed().contains(&line.as_str()), "{line}: {said:?}");
    }
    assert!(!said.body.contains("x-own"));
}

#[tokio::test]
async fn heads_have_a_bound_each_way() {
    let lab = Lab::new().await;
    let line = |bytes: usize| format!("X-Large: {}\r\n", "x".repeat(bytes));
    let said = lab.raw(lab.head("GET", 80, "/echo", &line(60_000))).await;
    assert_eq!((said.status, said.body.len() > 60_000), (200, true));
    assert_eq!(lab.raw(lab.head("GET", 80, "/echo", &line(70_000))).await.status, 431);
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(lab.raw(lab.head("GET", 80, "/echo", &many)).await.status, 431);
    let said = lab.get(80, "/head?60000").await;
    assert_eq!((said.status, said.all("x-large")[0].len()), (200, 60_000));
    let said = lab.get(80, "/head?70000").await;
    assert_eq!(said.status, 502);
    assert!(said.body.contains("65536 bytes"), "{said:?}");
    lab.quiet().await;
}

#[tokio::test]
async fn answers_that_are_none() {
    let lab = Lab::new().await;
    for raw in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: 1\r\n folded: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let hex: String = raw.bytes().map(|b| format!("{b:02x}")).collect();
        let said = lab.get(80, &format!("/raw?{hex}")).await;
        assert_eq!((said.status, said.all("moat-error")), (502, vec!["unavailable"]), "{raw:?}: {said:?}");
    }
    // Both lengths: what was read counts, and one length goes out.
    let raw = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let hex: String = raw.bytes().map(|b| format!("{b:02x}")).collect();
    let said = lab.get(80, &format!("/raw?{hex}")).await;
    assert_eq!((said.status, said.all("content-length").len()), (200, 0), "{said:?}");
    assert_eq!(said.body, "5\r\nhello\r\n0\r\n\r\n");
    // Redirections are the client's to follow.
    let raw = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let hex: String = raw.bytes().map(|b| format!("{b:02x}")).collect();
    let said = lab.get(80, &format!("/raw?{hex}")).await;
    assert_eq!((said.status, said.all("location")), (302, vec!["http://127.0.0.1:1/"]));
    lab.quiet().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_whole_is_not_taken_for_one() {
    let lab = Lab::new().await;
    for (lines, body) in [("Content-Length: 10\r\n", "half"), ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")] {
        let mut stream = lab.connect().await;
        stream.write_all((lab.head("POST", 80, "/body", lines) + body).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let said = Said::rest_of(stream).await;
        assert_ne!(said.status, 200, "{said:?}");
        lab.quiet().await;
    }
}
