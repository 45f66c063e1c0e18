//! Ports that are chosen before whoever listens at them is there.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// Takes an address without listening at it: whoever says that it may be shared can listen there, and the kernel gives it to
/// no connection that goes out. A port that was only looked for may be somebody's a moment later.
pub fn reserve(address: SocketAddr) -> std::io::Result<(SocketAddr, TcpSocket)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok((socket.local_addr()?, socket))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_reserved_port_can_be_listened_at_and_one_that_is_listened_at_not_reserved() {
        let (address, reserved) = reserve((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert_ne!(address.port(), 0);
        let listener = TcpListener::bind(address).unwrap();
        assert_eq!(reserve(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        drop((listener, reserved));
        reserve(address).unwrap();
    }
}
