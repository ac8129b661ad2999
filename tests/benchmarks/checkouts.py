"""Stand-ins of public checkouts: their names, draws and order, and nothing else of their code."""

from pathlib import Path

LOSS = """
from torch.nn import functional
import torch
import a_package_that_is_gone.entirely as gone

def forward_wrap_with_option_len(
    self, input_ids, labels, option_len, num_options, attention_mask
):
    output = self.original_forward(input_ids=input_ids, attention_mask=attention_mask)
    logprob = output.logits[:, :-1].log_softmax(-1)
    chosen = logprob.gather(-1, input_ids[:, 1:, None])[..., 0]
    scored = torch.arange(chosen.shape[1]) >= chosen.shape[1] - option_len[:, None]
    scores = (chosen * scored).sum(1) / option_len
    losses, row = [], 0
    while row < len(scores):
        count = int(num_options[row])
        losses.append(functional.cross_entropy(scores[row : row + count], labels[row]))
        row += count
    return (torch.stack(losses).mean(),)
"""

STEP = """
import torch
from transformers import Trainer, and_a_name_it_never_had
from transformers.gone import somewhere_else

class {name}(Trainer):
    from transformers.gone import a_method
    logger = and_a_name_it_never_had.get(__name__)

    def zo_forward(self, model, inputs):
        with torch.inference_mode():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach()

    def sweep(self, by):
        self.{perturb}(by)

    def {step}(self, model, inputs):
        eps = self.args.zo_eps
        self.t = getattr(self, "t", -1) + 1
        self.{perturb}(eps)
        plus = self.zo_forward(model, inputs)
        self.{perturb}(-2 * eps)
        self.c = ((plus - self.zo_forward(model, inputs)) / (2 * eps)).item()
        self.{perturb}(eps)
"""

DENSE = """
    def zo_perturb_parameters(self, by):
        torch.manual_seed(7)
        for _, p in self.model.named_parameters():
            kind = {{"device": p.data.device, "dtype": p.data.dtype}}
            p.data = p.data + by * torch.normal(mean=0, std=1, size=p.data.size(), **kind)

    def zo_update(self, model):
        self.zo_perturb_parameters({rate} * -self._get_learning_rate() * self.c)
"""

LOW_RANK = """
    def random_gaussian_matrix(self, m, n):
        return torch.randn(m, n, dtype=torch.float64)

    def lowrank_zo_perturb_parameters(self, by, anew=True):
        torch.manual_seed(7)
        self.v = {{}} if self.t == 0 and anew else self.v
        for name, p in self.model.named_parameters():
            if p.data.ndim > 1:
                if anew and self.t % self.args.step_interval == 0:
                    self.v[name] = self.random_gaussian_matrix(p.data.shape[1], self.args.rank_r)
                z = self.random_gaussian_matrix(len(p.data), self.args.rank_r) @ self.v[name].T
            else:
                z = torch.randn(len(p.data), dtype=torch.float64)
            p.data = p.data + by * z.to(p.data.dtype)

    def lowrank_zo_update(self):
        self.lowrank_zo_perturb_parameters(-self._get_learning_rate() * self.c, {anew})
"""


def checkout(root: Path, trainer: str, code: str) -> Path:
    """A folder with the two files that are read."""
    folder = root / "large_models"
    folder.mkdir()
    (folder / "utils.py").write_text(LOSS)
    (folder / trainer).write_text(code)
    return root


def dense(root: Path, rate: float = 1) -> Path:
    """A checkout like MeZO's, whose learning rate is multiplied by `rate`."""
    names = {"name": "OurTrainer", "step": "zo_step", "perturb": "zo_perturb_parameters"}
    return checkout(root, "trainer.py", STEP.format(**names) + DENSE.format(rate=rate))


def low_rank(root: Path, *, anew: bool) -> Path:
    """A checkout like LOZO's; `anew`: the update draws V, too, so that it has the right U."""
    perturb = "lowrank_zo_perturb_parameters"
    names = {"name": "LowRankTrainer", "step": "lowrank_zo_step", "perturb": perturb}
    code = STEP.format(**names) + LOW_RANK.format(anew=anew)
    return checkout(root, "LOZOtrainer.py", code)
