//! Looking at allocations, and at the services they offer.

use async_trait::async_trait;
use moat_model::{ErrorKind, JobId, Namespace};
use tokio::io::AsyncRead;

use super::status;
use crate::allocations::{Directory, ServiceInstance as Found};
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::jobs::view::{AllocView, ServiceInstance};

impl Jobs {
    /// Allocations of a namespace (of all, if none is named), of one job, if it is named; without their jobs.
    pub async fn allocations(&self, namespace: Option<&Namespace>, job: Option<&JobId>) -> Result<Vec<AllocView>> {
        let live = self.live()?;
        let state = live.replica.state();
        let wanted = |of: &moat_scheduler::JobKey| {
            namespace.is_none_or(|namespace| namespace == &of.namespace) && job.is_none_or(|job| job == &of.job)
        };
        let documents = state.outcomes.iter().filter(|(of, _)| wanted(of));
        let all = documents.flat_map(|(of, held)| {
            held.value.allocations.iter().map(|a| status::alloc_view(&state, of, a, false)).collect::<Vec<_>>()
        });
        Ok(all.collect())
    }

    /// One allocation, by its id or a beginning that no other has.
    pub async fn allocation(&self, namespace: Option<&Namespace>, id: &str) -> Result<AllocView> {
        let live = self.live()?;
        let state = live.replica.state();
        let wanted = |(alloc, of): &(&moat_model::AllocId, &moat_scheduler::JobKey)| {
            alloc.as_str().starts_with(id) && namespace.is_none_or(|namespace| namespace == &of.namespace)
        };
        let found = state.owners.iter().filter(wanted).map(|(alloc, _)| (alloc.to_string(), alloc.clone())).collect();
        let alloc = status::only("allocation", id, found)?;
        let gone = || Error::new(ErrorKind::NotFound, format!("no allocation {id:?}"));
        let (of, allocation) = status::owner(&state, &alloc).ok_or_else(gone)?;
        Ok(status::alloc_view(&state, of, allocation, true))
    }

    /// Instances of services that may be used: of a namespace; of one service, if it is named.
    pub async fn services(&self, namespace: &Namespace, name: Option<&str>) -> Result<Vec<ServiceInstance>> {
        let live = self.live()?;
        let state = live.replica.state();
        Ok(status::services(&state, namespace, name))
    }
}

#[async_trait]
impl Directory for Jobs {
    async fn services(&self, namespace: &Namespace, name: &str) -> Result<Vec<Found>> {
        let found = Jobs::services(self, namespace, Some(name)).await?;
        let usable = |instance: ServiceInstance| {
            let (address, port) = (instance.address?, instance.port?);
            Some(Found { name: instance.service, address, port, tags: instance.tags, alloc: instance.alloc })
        };
        Ok(found.into_iter().filter_map(usable).collect())
    }

    async fn key(&self, namespace: &Namespace, key: &str) -> Result<Option<String>> {
        self.live()?.store.value_of(namespace, key).await
    }

    async fn object(&self, bucket: &str, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        Ok(Box::new(self.live()?.store.object(bucket, key).await?))
    }
}
