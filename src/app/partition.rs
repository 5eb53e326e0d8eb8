//! The tasks of one partition: its fence, and the tasks that depend on the fence. Also makes the functions for the
//! partition's coupons.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::shared::{ApiSettings, SharedParts};
use crate::claims::batcher::Batcher;
use crate::claims::claim::Claims;
use crate::config;
use crate::coupons::definitions::Coupons;
use crate::coupons::publish;
use crate::coupons::snapshots::Snapshots;
use crate::domain::Partition;
use crate::fence::Fence;
use crate::fence::store_status::Stores;
use crate::metrics;
use crate::orders::expiry::EndingOrders;
use crate::orders::lookup::Orders;
use crate::orders::transitions::{self, Transitions};
use crate::orders::unrecorded::UnrecordedOrders;
use crate::partitions::PartitionFunctions;
use crate::receipt::Receipts;
use crate::reconcile::Reconciler;
use crate::redis::RedisServer;
use crate::tasks::Tasks;
use crate::waitlist::{self, Waitlist};
use crate::worker;

/// A partition that runs.
pub struct PartitionTasks {
    server: RedisServer,
    fence: Fence,
    tasks: Tasks,
    ending: EndingOrders,
    /// Wakes the task that returns units from the outbox.
    unit_waits: Arc<Notify>,
    /// Wakes the task `serving`.
    stock_came: Arc<Notify>,
    fence_task: JoinHandle<Option<()>>,
    publisher: JoinHandle<Option<()>>,
    serving: JoinHandle<Option<()>>,
    reconciling: JoinHandle<Option<()>>,
}

impl PartitionTasks {
    /// Starts the tasks, until the stop of the shared parts.
    pub fn start(shared: &SharedParts, partition: Partition) -> Self {
        let SharedParts { postgres, catalogue, stop, .. } = shared;
        metrics::add_partition(&partition.to_string());
        let server = shared.server.of(partition);
        let is_default = partition == Partition::DEFAULT;
        let owner = if is_default { String::new() } else { format!(" of partition {partition}") };
        let tasks = shared.tasks.of(&owner);
        let fence = Fence::new(partition);
        let parts = (fence.clone(), server.clone(), postgres.clone(), stop.clone());
        let run_fence = move || {
            let (fence, server, postgres, stop) = parts.clone();
            fence.run(server, postgres, stop)
        };
        let fence_task = tokio::spawn(tasks.supervise("fence", Some(config::TASK_MAX_IDLE), stop, run_fence));
        let unit_waits = Arc::default();
        let ending = EndingOrders::start(&fence, postgres, &unit_waits, &tasks, stop);
        let parts = (fence.clone(), postgres.clone(), catalogue.clone());
        let publisher = tasks.supervise("publisher", None, stop, move || {
            let (fence, postgres, catalogue) = parts.clone();
            publish::run(fence, postgres, catalogue)
        });
        let stock_came: Arc<Notify> = Arc::default();
        let parts = (fence.clone(), postgres.clone(), catalogue.clone(), stock_came.clone());
        let serving = tasks.supervise("waiting lists", None, stop, move || {
            let (fence, postgres, catalogue, stock_came) = parts.clone();
            waitlist::serve::run(fence, postgres, catalogue, stock_came)
        });
        let reconciler = Reconciler { fence: fence.clone(), postgres: postgres.clone() };
        let reconciling = tasks.supervise("reconciler", None, stop, move || reconciler.clone().run());
        Self {
            server,
            fence,
            ending,
            unit_waits,
            stock_came,
            fence_task,
            publisher: tokio::spawn(publisher),
            serving: tokio::spawn(serving),
            reconciling: tokio::spawn(reconciling),
            tasks,
        }
    }

    /// Makes the functions that the handlers call, and starts the tasks that only requests need.
    pub fn functions(&self, shared: &SharedParts, settings: &ApiSettings) -> PartitionFunctions {
        let SharedParts { postgres, catalogue, waiters, stop, .. } = shared;
        let (fence, tasks) = (&self.fence, &self.tasks);
        let batcher = Batcher::new(fence.clone(), catalogue.clone(), settings.max_backlog);
        let unrecorded = UnrecordedOrders::new(waiters.clone(), fence.clone(), postgres.clone());
        let orders = Orders::new(
            waiters.clone(),
            unrecorded.clone(),
            self.ending.clone(),
            fence.clone(),
            postgres.clone(),
        );
        let parts = transitions::Parts {
            fence: fence.clone(),
            postgres: postgres.clone(),
            unit_waits: self.unit_waits.clone(),
        };
        let snapshots = Snapshots::new(fence.clone());
        let reconciler = Reconciler { fence: fence.clone(), postgres: postgres.clone() };
        PartitionFunctions {
            claims: Claims::new(batcher, orders.clone(), catalogue.clone(), settings.answer_after),
            waitlist: Waitlist::start(fence, postgres, orders.clone(), tasks, stop),
            orders,
            transitions: Transitions::start(parts, unrecorded.clone(), tasks, stop),
            unrecorded,
            coupons: Coupons::new(
                fence.clone(),
                postgres.clone(),
                catalogue.clone(),
                snapshots.clone(),
                self.stock_came.clone(),
                settings.answer_after,
            ),
            snapshots,
            stores: self.stores(shared),
            receipts: Receipts {
                fence: fence.clone(),
                postgres: postgres.clone(),
                reconciler: reconciler.clone(),
            },
            reconciler,
            fence: fence.clone(),
        }
    }

    /// Reads the state of the stores.
    pub fn stores(&self, shared: &SharedParts) -> Stores {
        Stores::new(self.fence.clone(), self.server.clone(), shared.postgres.clone())
    }

    /// The handles for workers of the partition.
    pub fn worker_context(&self, shared: &SharedParts) -> worker::Context {
        worker::Context {
            server: self.server.clone(),
            postgres: shared.postgres.clone(),
            fence: self.fence.clone(),
            waiters: shared.waiters.clone(),
            tasks: self.tasks.clone(),
            unit_waits: self.unit_waits.clone(),
        }
    }

    /// Ends the tasks. The stop of the shared parts has been cancelled.
    pub async fn stop(self) {
        self.reconciling.abort();
        self.publisher.abort();
        self.serving.abort();
        if let Err(error) = self.fence_task.await {
            tracing::error!("the fence's task panicked: {error}");
        }
    }
}
