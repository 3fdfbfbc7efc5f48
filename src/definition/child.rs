//! Child workflows: another workflow as one node.

use std::sync::Arc;

use serde::Serialize;

use super::draft::NodeDraftKind;
use super::handler::ErasedTask;
use super::{Builder, Workflow};
use crate::codec::Output;

impl<I, O> Builder<I, O>
where
    O: Output + Serialize,
{
    /// Adds another workflow as one node: the value that flows in is its input, and its output
    /// flows on. The paths of its nodes begin with this id, so one workflow can be used more than
    /// once. The child is inlined: it runs within this instance, with its tasks' options, and
    /// without its own deadline and metadata. Its name and version are part of this workflow's
    /// definition hash.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use everstep::Workflow;
    ///
    /// async fn double(n: u32) -> Result<u32, Infallible> {
    ///     Ok(2 * n)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let twice = Workflow::builder("twice").then("double", double).build()?;
    /// let builder = Workflow::builder_for::<u32>("four times");
    /// let workflow = builder.child("first", &twice).child("second", &twice).build()?;
    /// assert_eq!(workflow.run_once(3).await?, 12);
    /// # Ok(())
    /// # }
    /// ```
    pub fn child<X: Send + 'static>(mut self, id: impl Into<String>, workflow: &Workflow<O, X>) -> Builder<I, X> {
        let definition = workflow.definition();
        let convert = (!self.decode.is_payload()).then(|| {
            ErasedTask::inner(self.decode.clone(), |input: O, scope| {
                input.encode(&scope.codec, scope.limits.payload_bytes_max)
            })
        });
        let nodes = Arc::clone(&definition.drafts);
        let workflow_info = (**definition.info()).clone();
        self.add(id, NodeDraftKind::Child { nodes, workflow: workflow_info, convert });
        self.flowing(workflow.output.clone())
    }
}
