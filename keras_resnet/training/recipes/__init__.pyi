from .recipe import Recipe as Recipe, override as override
from .table import RECIPES as RECIPES, find_recipe as find_recipe
