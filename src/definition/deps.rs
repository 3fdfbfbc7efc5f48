//! Services that tasks need, by type.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::handler::{Extract, TaskScope};

/// A service for a task: provided once with
/// [`RuntimeBuilder::provide`](crate::RuntimeBuilder::provide), passed to every attempt. Missing
/// services are reported when the runtime starts, all at once.
pub struct Dep<T: ?Sized>(pub Arc<T>);

impl<T: ?Sized> Deref for Dep<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Clone for Dep<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Dep<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A `Dep<T>` of a task that was not provided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingDep {
    /// The type of the service.
    pub type_name: &'static str,
    /// The workflow and node that need it.
    pub asked_by: String,
}

impl fmt::Display for MissingDep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (needed by {})", self.type_name, self.asked_by)
    }
}

/// Lists missing services in one line.
pub(crate) fn list(missing: &[MissingDep]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A type of service that a task needs.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    type_id: TypeId,
    type_name: &'static str,
}

/// The services provided, by type.
#[derive(Default)]
pub struct Deps {
    services: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl Deps {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Provides a service; a second one of the same type replaces the first.
    pub fn provide<T: ?Sized + Send + Sync + 'static>(&mut self, service: Arc<T>) {
        self.services.insert(TypeId::of::<T>(), Box::new(service));
    }

    fn get<T: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.services.get(&TypeId::of::<T>())?.downcast_ref::<Arc<T>>().cloned()
    }

    pub(super) fn missing<'a>(&self, asked: &'a [Requirement]) -> impl Iterator<Item = &'static str> + use<'a, '_> {
        asked.iter().filter(|one| !self.services.contains_key(&one.type_id)).map(|one| one.type_name)
    }
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deps({} services)", self.services.len())
    }
}

impl<T: ?Sized + Send + Sync + 'static> Extract for Dep<T> {
    fn require(requirements: &mut Vec<Requirement>) {
        requirements.push(Requirement { type_id: TypeId::of::<T>(), type_name: std::any::type_name::<T>() });
    }

    fn extract(scope: &TaskScope) -> Result<Self, MissingDep> {
        scope.deps.get().map(Self).ok_or_else(|| MissingDep {
            type_name: std::any::type_name::<T>(),
            asked_by: scope.context.node().to_string(),
        })
    }
}
