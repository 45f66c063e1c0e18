//! The socket requests come through. One at a time, as the real one answers them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use crate::fault::Fault;
use crate::vmm::Vmm;

/// The real one's limit, unless told otherwise.
const BODY_LEN_MAX: usize = 51_200;

pub async fn serve(listener: UnixListener, vmm: Arc<Mutex<Vmm>>) -> Result<(), String> {
    loop {
        let (socket, _) = listener.accept().await.map_err(|e| format!("accept: {e}"))?;
        tokio::spawn(connection(socket, vmm.clone()));
    }
}

async fn connection(socket: UnixStream, vmm: Arc<Mutex<Vmm>>) {
    let garbage = vmm.lock().await.script.says("garbage");
    if garbage {
        let mut socket = socket;
        // Whoever reads it hangs up, which is their right.
        let _ = socket.write_all(&[0xff; 4096]).await;
        return;
    }
    let service = service_fn(move |request| {
        let vmm = vmm.clone();
        async move { Ok::<_, Infallible>(answer(request, vmm).await) }
    });
    // A connection that breaks is the client's to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

async fn answer(request: Request<Incoming>, vmm: Arc<Mutex<Vmm>>) -> Response<String> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err(why) => return refusal(&why),
    };
    let mut vmm = vmm.lock().await;
    match vmm.script.of_request(&method, &path) {
        Some(Fault::Refuse) => return refusal("it was asked to refuse this"),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Garbage) => return response(200, "{not json".to_owned()),
        Some(Fault::Die) => std::process::exit(1),
        None => {}
    }
    let said = vmm.ask(&method, &path, &body).await;
    if vmm.is_lost() {
        // As the real one does when it could not load a machine: it answers, and ends.
        tokio::spawn(async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            std::process::exit(1);
        });
    }
    match said {
        Ok(None) => response(204, String::new()),
        Ok(Some(value)) => response(200, value.to_string()),
        Err(why) => refusal(&why),
    }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, String> {
    let mut read = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| e.to_string())?;
        read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if read.len() > BODY_LEN_MAX {
            return Err(format!(
                "Request payload with size {} is larger than the limit of {BODY_LEN_MAX} allowed by server.",
                read.len()
            ));
        }
    }
    Ok(read)
}

fn refusal(why: &str) -> Response<String> {
    response(400, json!({ "fault_message": why }).to_string())
}

fn response(status: u16, body: String) -> Response<String> {
    let built = Response::builder().status(status).header("Content-Type", "application/json").body(body);
    built.unwrap_or_else(|_| Response::new(Value::Null.to_string()))
}
