//! The state of a worker, which follows reloads.

use std::cell::RefCell;
use std::rc::Rc;

use actix_web::dev::{Extensions, ServiceRequest};
use actix_web::web;
use tokio::sync::watch;

use crate::service::{Service, Shared};

/// The [`Service`] of a worker. It is built again before the first request after a reload.
#[derive(Debug)]
pub struct WorkerService {
    updates: RefCell<watch::Receiver<Shared>>,
    service: RefCell<web::Data<Service>>,
    /// Holds the service where handlers look for it.
    container: RefCell<Rc<Extensions>>,
}

// === impl WorkerService ===

impl WorkerService {
    /// Builds the state of a worker. Call it on the worker.
    ///
    /// # Errors
    /// An upstream that cannot be set up, by name.
    pub(crate) fn new(mut updates: watch::Receiver<Shared>) -> Result<Self, String> {
        let service = Service::new(&updates.borrow_and_update())?;
        let service = web::Data::new(service);
        Ok(Self {
            updates: RefCell::new(updates),
            container: RefCell::new(contain(&service)),
            service: RefCell::new(service),
        })
    }

    /// Returns the state as it is now.
    pub(crate) fn current(&self) -> web::Data<Service> {
        let mut updates = self.updates.borrow_mut();
        // An error means that the gateway has ended.
        if updates.has_changed().unwrap_or(false) {
            let shared = updates.borrow_and_update().clone();
            let later = Service::following(&shared, &self.service.borrow());
            match later {
                Ok(later) => {
                    let later = web::Data::new(later);
                    self.container.replace(contain(&later));
                    self.service.replace(later);
                }
                // The reload has built the same, so this is the worker's own trouble.
                Err(error) => {
                    tracing::error!(%error, "a worker cannot follow a reload; it keeps the earlier configuration");
                }
            }
        }
        self.service.borrow().clone()
    }

    /// Gives a request the state as it is now, for as long as it lasts.
    pub(crate) fn give_to(&self, request: &mut ServiceRequest) -> web::Data<Service> {
        let service = self.current();
        request.add_data_container(self.container.borrow().clone());
        service
    }
}

fn contain(service: &web::Data<Service>) -> Rc<Extensions> {
    let mut container = Extensions::new();
    container.insert(service.clone());
    Rc::new(container)
}
