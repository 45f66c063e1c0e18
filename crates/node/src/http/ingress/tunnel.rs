//! After an upgrade: bytes both ways, each direction until its own end.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::super::server::Place;
use super::exchange::Carrier;
use super::visits::Visit;

/// Read ahead in each direction; what more comes waits in the sandbox, or at the client.
const AHEAD: usize = 16 << 10;

/// Two connections that become one, and what they hold.
pub(super) struct Tunnel {
    pub client: OnUpgrade,
    pub inside: OnUpgrade,
    pub carrier: Carrier,
    pub visit: Visit,
    pub place: Place,
}

impl Tunnel {
    /// Carries until both sides have ended, or one broke.
    pub async fn carry(self) {
        let Self { client, inside, carrier, visit, place } = self;
        let (client, inside) = match tokio::try_join!(client, inside) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade came to nothing"),
        };
        let (mut client, mut inside) = (TokioIo::new(client), TokioIo::new(inside));
        if let Err(error) = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut inside, AHEAD, AHEAD).await {
            tracing::trace!(%error, "an upgraded connection ended badly");
        }
        drop((carrier, visit, place));
    }
}
