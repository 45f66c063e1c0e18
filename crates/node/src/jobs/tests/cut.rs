//! A wire that can be cut: connections of one client to the server go through it.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// See the module.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    whole: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Wire {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let whole = Arc::new(watch::Sender::new(true));
        let state = Arc::clone(&whole);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, state.subscribe()));
            }
        });
        Self { port, whole, task }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Nothing passes any more, in either direction; nobody is told.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut near: TcpStream, server: u16, mut whole: watch::Receiver<bool>) {
    if whole.wait_for(|whole| *whole).await.is_err() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let is_cut = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        cut = whole.wait_for(|whole| !*whole) => cut.is_ok(),
    };
    if is_cut {
        // What was on its way is lost; the ends find out when the wire is mended.
        let _ = whole.wait_for(|whole| *whole).await;
    }
}
