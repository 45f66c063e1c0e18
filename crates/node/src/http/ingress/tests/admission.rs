//! Who gets in, and what is seen inside of how they got in.

use super::*;

#[tokio::test]
async fn a_request_goes_in_without_what_is_ours() {
    let lab = Lab::new().await;
    let lines = "Cookie: a=1; moat_token=x; b=2\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
                 Keep-Alive: 1\r\nProxy-Authorization: x\r\nX-Own: yes\r\nMoat-Sandbox: 80-ID\r\nTE: gzip\r\n";
    let said = lab.raw(lab.head("GET", 8080, "/echo?a=1&moat_token=x&b", &lines.replace("ID", lab.id.as_str()))).await;
    assert_eq!(said.status, 200, "{said:?}");
    let host = lab.host(8080);
    let expected = [
        "GET /echo?a=1&b HTTP/1.1".to_owned(),
        "cookie: a=1; b=2".to_owned(),
        format!("host: {host}"),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        format!("x-forwarded-host: {host}"),
        "x-forwarded-proto: http".to_owned(),
        "x-own: yes".to_owned(),
    ];
    assert_eq!(said.echoed(), expected);
}

#[tokio::test]
async fn behind_a_server_with_tls_what_it_says_counts() {
    let lab = Lab::with(true).await;
    let said = lab.raw(lab.head("GET", 80, "/echo", "X-Forwarded-For: 192.0.2.7\r\n")).await;
    assert!(
        said.body.contains("x-forwarded-for: 192.0.2.7\r\n") && said.body.contains("x-forwarded-for: 127.0.0.1\r\n")
    );
    assert!(said.body.contains("x-forwarded-proto: https"));
    let host = lab.host(80);
    let path = format!("/?moat_token={}", lab.token);
    let said = lab.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
    assert!(said.all("set-cookie")[0].ends_with("; HttpOnly; SameSite=Lax; Secure"), "{said:?}");
}

#[tokio::test]
async fn who_may() {
    let lab = Lab::new().await;
    let (right, wrong, id) = (lab.token.clone(), lab.tokens.of(&lab.other), lab.id.as_str());
    let flipped = if right.starts_with('A') { right.replacen('A', "B", 1) } else { format!("A{}", &right[1..]) };
    let cases = [
        ("GET", "/echo", "Moat-Token: RIGHT", 200),
        ("GET", "/echo", "moat-token: RIGHT", 200),
        ("DELETE", "/echo", "Cookie: moat_token=RIGHT", 200),
        ("GET", "/echo", "Cookie: x=1;moat_token=RIGHT; y=2", 200),
        // Another sandbox's page may have set one for the whole domain.
        ("GET", "/echo", "Cookie: moat_token=WRONG; moat_token=RIGHT", 200),
        ("GET", "/echo", "X: 1", 401),
        ("GET", "/echo", "Moat-Token: WRONG", 401),
        ("GET", "/echo", "Moat-Token: FLIPPED", 401),
        ("GET", "/echo", "Moat-Token: RIGHT=", 401),
        ("GET", "/echo", "Moat-Token:", 401),
        ("GET", "/echo", "Moat-Token: RIGHT\r\nMoat-Token: RIGHT", 400),
        ("GET", "/echo", "Moat-Token: WRONG\r\nCookie: moat_token=RIGHT", 401),
        ("GET", "/echo", "Cookie: moat_token=WRONG", 401),
        ("GET", "/echo", "Cookie: Moat_Token=RIGHT", 401),
        ("GET", "/echo", "Authorization: Bearer RIGHT", 401),
        ("GET", "/echo?moat_token=WRONG", "Cookie: moat_token=RIGHT", 401),
        ("POST", "/echo?moat_token=RIGHT", "X: 1", 401),
        ("GET", "/echo?moat_token=RIGHT", "X: 1", 303),
        // By the other header, only a header counts.
        ("GET", "/echo", "Moat-Sandbox: 80-ID\r\nMoat-Token: RIGHT", 200),
        ("GET", "/echo", "Moat-Sandbox: 80-ID\r\nCookie: moat_token=RIGHT", 401),
        ("GET", "/echo?moat_token=RIGHT", "Moat-Sandbox: 80-ID", 401),
        ("GET", "/echo", "Moat-Sandbox: nonsense\r\nMoat-Token: RIGHT", 400),
        ("CONNECT", "h:80", "Moat-Token: RIGHT", 405),
    ];
    for (method, path, lines, status) in cases {
        let filled = |text: &str| {
            // The id first: a token is random and may spell `ID`, an id is lower-case and spells nothing.
            let text = text.replace("ID", id);
            text.replace("RIGHT", &right).replace("WRONG", &wrong).replace("FLIPPED", &flipped)
        };
        let (path, lines) = (filled(path), filled(lines));
        let host = lab.host(80);
        let said =
            lab.raw(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(said.status, status, "{method} {path} {lines}: {said:?}");
        assert!(!said.body.contains(&right), "{said:?}");
        assert_eq!(said.all("moat-error").len(), usize::from(status > 399), "{said:?}");
    }
}

#[tokio::test]
async fn a_sandbox_that_does_not_exist_looks_like_one_without_a_token() {
    let lab = Lab::new().await;
    let ask = async |id: &SandboxId, lines: String| {
        let said =
            lab.raw(format!("GET / HTTP/1.1\r\nHost: 80-{id}.box.test\r\nConnection: close\r\n{lines}\r\n")).await;
        let mut body: serde_json::Value = serde_json::from_str(&said.body).unwrap();
        body["id"] = "".into();
        let head = said.head.split("\r\n").filter(|line| !line.starts_with("date")).collect::<Vec<_>>().join("\n");
        (said.status, head, body.to_string())
    };
    let wrong = format!("Moat-Token: {}\r\n", "A".repeat(43));
    for lines in [String::new(), wrong] {
        let (real, none) = (ask(&lab.id, lines.clone()).await, ask(&lab.other, lines).await);
        assert_eq!(real.0, 401);
        assert_eq!(real, none);
    }
    // Whoever has its token knows that it was there.
    let token = format!("Moat-Token: {}\r\n", lab.tokens.of(&lab.other));
    assert_eq!(ask(&lab.other, token).await.0, 404);
}

#[tokio::test]
async fn a_public_sandbox_needs_no_token_and_sees_none() {
    let lab = Lab::new().await;
    lab.doors.public.store(true, Ordering::SeqCst);
    let host = lab.host(80);
    let head = format!("GET /echo?moat_token=x HTTP/1.1\r\nHost: {host}\r\nMoat-Token: y\r\nConnection: close\r\n\r\n");
    let said = lab.raw(head).await;
    assert_eq!(said.status, 200);
    assert!(!said.body.to_lowercase().contains("token"), "{said:?}");
    let said = lab.raw(format!("GET / HTTP/1.1\r\nHost: 80-{}.box.test\r\nConnection: close\r\n\r\n", lab.other)).await;
    assert_eq!(said.status, 401);
}

#[tokio::test]
async fn a_token_in_a_url_becomes_a_cookie_of_this_host() {
    let lab = Lab::new().await;
    for (path, location) in [
        ("/a/b?c=1&moat_token=T&d", "/a/b?c=1&d"),
        ("/?moat_token=T", "/"),
        ("//evil.test/?moat_token=T", "/.//evil.test/"),
        ("/\\evil.test?moat_token=T", "/./\\evil.test"),
    ] {
        let (host, path) = (lab.host(80), path.replace('T', &lab.token));
        let said = lab.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!((said.status, said.all("location")), (303, vec![location]), "{path}: {said:?}");
        let cookie = format!("moat_token={}; Path=/; HttpOnly; SameSite=Lax", lab.token);
        assert_eq!(said.all("set-cookie"), [cookie.as_str()]);
        assert_eq!(said.all("cache-control"), ["no-store"]);
        assert_eq!(said.all("referrer-policy"), ["no-referrer"]);
    }
    assert_eq!(lab.doors.open.load(Ordering::SeqCst), 0, "nothing went in");
}

#[tokio::test]
async fn pages_of_other_sandboxes_cannot_use_a_browsers_cookie() {
    let lab = Lab::new().await;
    let own = format!("http://3000-{}.box.test:8081", lab.id);
    let others = format!("http://80-{}.box.test", lab.other);
    for (method, origin, status) in [
        ("POST", own.as_str(), 200),
        ("POST", &others, 403),
        ("POST", "null", 403),
        ("POST", "https://evil.test", 403),
        ("DELETE", "http://box.test", 403),
        // What cannot be read across origins, and changes nothing, is the browser's to refuse.
        ("GET", &others, 200),
        ("OPTIONS", &others, 200),
    ] {
        let (host, token) = (lab.host(80), &lab.token);
        let head = format!("{method} /echo HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n");
        let said = lab.raw(format!("{head}Cookie: moat_token={token}\r\n\r\n")).await;
        assert_eq!(said.status, status, "{method} {origin}: {said:?}");
        // Whoever can set a header has the token itself.
        let said = lab.raw(format!("{head}Moat-Token: {token}\r\n\r\n")).await;
        assert_eq!(said.status, 200, "{method} {origin}: {said:?}");
    }
}

#[tokio::test]
async fn doors_that_are_closed() {
    let lab = Lab::new().await;
    for (port, status, code, says) in [
        (DEAF, 502, "unavailable", "nothing listens on port 1"),
        (AGENTS, 403, "denied", "agent"),
        (PAUSED, 409, "conflict", "paused"),
        (SLOW, 504, "deadline", "does not take"),
    ] {
        let said = lab.get(port, "/").await;
        let body: serde_json::Value = serde_json::from_str(&said.body).unwrap();
        assert_eq!((said.status, body["code"].as_str()), (status, Some(code)), "{said:?}");
        assert!(body["message"].as_str().unwrap().contains(says), "{body}");
        assert_eq!(said.all("moat-error"), [code]);
    }
    let said = lab.raw(lab.head("GET", DEAF, "/", "Accept: text/html,*/*\r\n")).await;
    assert_eq!(said.all("content-type"), ["text/html; charset=utf-8"]);
    assert!(said.body.contains("<p>nothing listens on port 1"), "{said:?}");
}

#[tokio::test]
async fn a_sandbox_is_in_use_as_long_as_somebody_is_connected() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    stream.write_all(lab.head("GET", 80, "/sse", "").as_bytes()).await.unwrap();
    until(&mut stream, "data: one").await;
    let touches = |n| move |lab: &Lab| (lab.doors.touches.load(Ordering::SeqCst) >= n).then_some(());
    wait_until(SOON, "it is touched again and again", async || touches(3)(&lab)).await.unwrap();
    assert_eq!(*lab.doors.touched.lock().unwrap(), HashSet::from([lab.id.clone()]));
    drop(stream);
    lab.quiet().await;
}
