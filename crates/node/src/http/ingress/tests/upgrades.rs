//! Connections that stop being HTTP.

use futures::SinkExt;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::*;

async fn websocket(lab: &Lab, path: &str, lines: &[(&'static str, String)]) -> Result<Vec<Message>, u16> {
    let mut request = format!("ws://{}{path}", lab.host(SOCKETS)).into_client_request().unwrap();
    for (name, value) in lines {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let mut socket = match tokio_tungstenite::client_async(request, lab.connect().await).await {
        Ok((socket, _)) => socket,
        Err(WsError::Http(response)) => return Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    };
    let mut heard = Vec::new();
    for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20])] {
        socket.send(message).await.unwrap();
        heard.push(tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap());
    }
    socket.close(None).await.unwrap();
    Ok(heard)
}

#[tokio::test]
async fn websockets() {
    let lab = Lab::new().await;
    let (token, cookie) = (lab.token.clone(), format!("moat_token={}", lab.token));
    let own = format!("http://{}", lab.host(3000));
    for (path, lines, status) in [
        ("/", vec![("moat-token", token.clone())], 101),
        ("/?moat_token=T", vec![("origin", "https://elsewhere.test".to_owned())], 101),
        ("/", vec![("cookie", cookie.clone()), ("origin", own)], 101),
        ("/", vec![("cookie", cookie.clone())], 101),
        ("/", vec![("cookie", cookie), ("origin", "https://elsewhere.test".to_owned())], 403),
        ("/", vec![], 401),
        ("/?moat_token=wrong", vec![], 401),
    ] {
        let heard = websocket(&lab, &path.replace('T', &token), &lines).await;
        match heard {
            Ok(heard) => {
                assert_eq!(status, 101, "{path} {lines:?}");
                assert_eq!(heard, [Message::text("hello"), Message::binary(vec![7; 1 << 20])]);
            }
            Err(refused) => assert_eq!(refused, status, "{path} {lines:?}"),
        }
    }
    lab.quiet().await;
}

#[tokio::test]
async fn any_protocol_and_each_direction_ends_for_itself() {
    let lab = Lab::new().await;
    let head = lab.head("GET", 80, "/switch", "Upgrade: echo\r\n").replace("close", "Upgrade");
    let mut stream = lab.connect().await;
    // What comes with the head is the new protocol's already.
    stream.write_all((head + "early,").as_bytes()).await.unwrap();
    let heard = until(&mut stream, "early,").await;
    assert!(heard.starts_with("HTTP/1.1 101 ") && heard.contains("upgrade: echo\r\n"), "{heard}");
    stream.write_all(b"late,").await.unwrap();
    until(&mut stream, "late,").await;
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, "bye");
    lab.quiet().await;
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_switched_to() {
    let lab = Lab::new().await;
    for lines in ["", "Upgrade: websocket\r\n", "Upgrade: h2c\r\nHTTP2-Settings: x\r\n"] {
        let head = lab.head("GET", 80, "/switch", lines);
        for connection in ["close", "Upgrade, close"] {
            let said = lab.raw(head.replace("Connection: close", &format!("Connection: {connection}"))).await;
            assert_eq!(said.status, 502, "{lines} {connection}: {said:?}");
        }
    }
    // A program that does not switch is answered for as ever; HTTP/2 is not offered to it.
    let lines = "Upgrade: h2c\r\nHTTP2-Settings: x\r\n";
    let head = lab.head("GET", 80, "/echo", lines).replace("close", "Upgrade, HTTP2-Settings, close");
    let said = lab.raw(head).await;
    assert_eq!(said.status, 200);
    assert!(!said.body.to_lowercase().contains("h2c") && !said.body.to_lowercase().contains("http2"), "{said:?}");
    let head = lab.head("GET", 80, "/echo", "Upgrade: other\r\n").replace("close", "Upgrade");
    let mut stream = lab.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = until(&mut stream, "x-forwarded-proto: http\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("upgrade: other"), "{said}");
    lab.quiet().await;
}

#[tokio::test]
async fn a_server_that_ends_takes_its_connections_along() {
    let lab = Lab::new().await;
    let mut stream = lab.connect().await;
    let head = lab.head("GET", 80, "/switch", "Upgrade: echo\r\n").replace("close", "Upgrade");
    stream.write_all((head + "x").as_bytes()).await.unwrap();
    until(&mut stream, "\r\n\r\nx").await;
    let Lab { server, .. } = lab;
    tokio::time::timeout(SOON, server.close()).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}
