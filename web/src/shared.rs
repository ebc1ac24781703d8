//! The session of an engine, shared between JavaScript's object and the call in progress.

use crate::backend::{self, Handle, Model};
use crate::error::EdgeError;
use js_sys::{Function, Promise};
use qwen_vl_runtime::RuntimeError;
use qwen_vl_runtime::session::Engine;
use std::cell::{Cell, RefCell};
use wasm_bindgen::JsValue;

/// A session with at most one call in progress.
///
/// A call takes the session out of the cell and puts it back when it ends. So nothing is borrowed while JavaScript runs, and whatever comes
/// meanwhile sees that the session is absent.
pub(crate) struct Shared {
    /// Absent during a call and after it was destroyed.
    session: RefCell<Option<Engine<Model>>>,
    /// Destroys the device while a call has the session.
    handle: Handle,
    destroyed: Cell<bool>,
    /// Pictures that were released during the call in progress.
    released: RefCell<Vec<String>>,
    /// Memory of the model when it was last at hand, bytes.
    memory: Cell<u64>,
    /// True if the session was destroyed and its memory is released.
    released_all: Cell<bool>,
    /// Functions to call when the memory is released.
    on_released: RefCell<Vec<Function>>,
}

impl Shared {
    pub(crate) fn new(session: Engine<Model>) -> Self {
        Self {
            handle: backend::handle(session.model()),
            memory: Cell::new(backend::memory_bytes(session.model())),
            session: RefCell::new(Some(session)),
            destroyed: Cell::new(false),
            released: RefCell::default(),
            released_all: Cell::new(false),
            on_released: RefCell::default(),
        }
    }

    pub(crate) fn is_destroyed(&self) -> bool {
        self.destroyed.get()
    }

    /// Runs an asynchronous call.
    pub(crate) async fn run<T>(&self, call: impl AsyncFnOnce(&mut Engine<Model>) -> Result<T, RuntimeError>) -> Result<T, JsValue> {
        let Some(mut session) = self.session.take() else { return Err(self.absent().into()) };
        let result = call(&mut session).await;
        for id in self.released.take() {
            session.release_image(&id);
        }
        if self.is_destroyed() {
            self.release(session);
            return Err(EdgeError::disposed().into());
        }
        self.memory.set(backend::memory_bytes(session.model()));
        self.session.replace(Some(session));
        Ok(result.map_err(EdgeError::from)?)
    }

    /// Runs a synchronous call.
    pub(crate) fn with<T>(&self, call: impl FnOnce(&mut Engine<Model>) -> Result<T, RuntimeError>) -> Result<T, JsValue> {
        let mut session = self.session.borrow_mut();
        let session = session.as_mut().ok_or_else(|| self.absent())?;
        let result = call(session);
        self.memory.set(backend::memory_bytes(session.model()));
        Ok(result.map_err(EdgeError::from)?)
    }

    pub(crate) fn release_image(&self, id: String) {
        match &mut *self.session.borrow_mut() {
            Some(session) => session.release_image(&id),
            None => self.released.borrow_mut().push(id),
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.session.borrow().as_ref().map_or(self.memory.get(), |session| backend::memory_bytes(session.model()))
    }

    /// Destroys the session now, or at the end of the call in progress, whose GPU work fails at once. Resolves when that is done.
    pub(crate) fn destroy(&self) -> Promise {
        let first = !self.destroyed.replace(true);
        match self.session.take() {
            Some(session) => self.release(session),
            None if first => backend::destroy_device(&self.handle),
            None => {}
        }
        Promise::new(&mut |resolve, _| {
            if self.released_all.get() {
                // Resolving a promise cannot fail.
                let _ = resolve.call0(&JsValue::UNDEFINED);
            } else {
                self.on_released.borrow_mut().push(resolve);
            }
        })
    }

    fn release(&self, session: Engine<Model>) {
        backend::destroy(session.model());
        self.memory.set(backend::memory_bytes(session.model()));
        drop(session);
        self.released_all.set(true);
        for resolve in self.on_released.take() {
            let _ = resolve.call0(&JsValue::UNDEFINED);
        }
    }

    fn absent(&self) -> EdgeError {
        if self.is_destroyed() { EdgeError::disposed() } else { EdgeError::busy() }
    }
}
