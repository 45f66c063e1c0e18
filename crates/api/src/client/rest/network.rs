//! Networks of sandboxes and of the node.

use reqwest::Method;

use super::{RestClient, Result};
use crate::rest::network::{NetworkOptions, NetworkStatus, NetworkTest, NodeNetwork, TestNetwork};

impl RestClient {
    /// The network a sandbox has.
    pub async fn sandbox_network(&self, id: &str) -> Result<NetworkStatus> {
        self.get(&format!("look at the network of {id}"), &["sandboxes", id, "network"], &[]).await
    }

    /// Gives a sandbox that lives another network in place of its own; resolves when it holds, for connections too that
    /// were open before.
    pub async fn set_sandbox_network(&self, id: &str, network: &NetworkOptions) -> Result<NetworkStatus> {
        let request = self.request(Method::PUT, &["sandboxes", id, "network"], &[]).json(network);
        self.slow(&format!("change the network of {id}"), request).await
    }

    /// What a sandbox would reach. Nothing is sent.
    pub async fn test_sandbox_network(&self, id: &str, test: &TestNetwork) -> Result<NetworkTest> {
        self.post(&format!("test the network of {id}"), &["sandboxes", id, "network", "test"], test).await
    }

    /// The network of the node.
    pub async fn network(&self) -> Result<NodeNetwork> {
        self.get("look at the node's network", &["network"], &[]).await
    }

    /// What a sandbox with this network would reach. Nothing is sent.
    pub async fn test_network(&self, test: &TestNetwork) -> Result<NetworkTest> {
        self.post("test a network", &["network", "test"], test).await
    }
}
