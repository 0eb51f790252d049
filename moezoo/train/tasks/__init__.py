"""What a run may be for. A new kind of training is a file here and an entry of :data:`TASKS`."""

from moezoo.train.tasks.base import Judgement, Task
from moezoo.train.tasks.choose import TASKS, AnySplits, choose_task, task_of

__all__ = ["TASKS", "AnySplits", "Judgement", "Task", "choose_task", "task_of"]
