"""Libraries without torch's compiler: it stays away until it is used, and then all is as it always is."""

import subprocess
import sys

PROGRAM = """
import io, sys
from PIL import Image
from emo_ray.data.frames import decoded
from emo_ray.data.lean_import import without_compiler
Image.new("RGB", (8, 8)).save(jpeg := io.BytesIO(), "jpeg")
decoded([jpeg.getvalue()])  # with torchvision
import emo_ray.models.emovclip  # with open_clip and timm
print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules)

import torch
with without_compiler():
    @torch.compiler.disable  # as timm and torchvision decorate functions of theirs
    def double(x):
        return 2 * x
import torch._dynamo
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported.__module__, torch.compiler.disable.__module__)
print(sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") == is_compile_supported("cpu"))

graphs = []
def compiler(module, inputs):
    graphs.append(module)
    return module.forward
compiled = torch.compile(lambda x: double(x + 1) - 1, backend=compiler)
print(compiled(torch.ones(1)).item(), len(graphs))
"""


def test_the_compiler_is_imported_when_it_is_used_and_lets_alone_what_a_library_keeps_from_it():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    at_first, real, same, result = run.stdout.splitlines()
    assert at_first == "False False"
    assert real == "torch._dynamo.utils torch.compiler"
    assert same == "True"
    assert result == "3.0 2"  # in two graphs: one before the decorated function, one after it
