"""All services of the shop, in the order in which an order meets them."""

from . import inventory, mail, orders, payment, recommendations, sales, shipping

apps = [service.app for service in (orders, inventory, payment, shipping, mail, sales, recommendations)]
